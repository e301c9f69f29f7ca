/* Digests, and what their names look like. */
#ifndef TR_CRYPTO_H
#define TR_CRYPTO_H

#include "theaterref.h"

/* Hex digits in a digest: 40 or 64. */
size_t tr_hex_length(tr_algorithm algorithm);

/* Which digest a valid hex text is of, by its length. */
tr_algorithm tr_algorithm_of(const char *hex);

/* True if the text is 40 or 64 hex digits, of either case. */
bool tr_hex_valid(const char *hex);

#endif
