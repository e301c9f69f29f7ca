/* Remembers which signatures were found good, for all Lua states and threads. */
#ifndef TR_VERDICTS_H
#define TR_VERDICTS_H

#include "requirement.h"

/*
** Return true if the bytes with this SHA-256 were found to meet a requirement, and give the
** keys that signed. 'sha256' and 'requirement' (its id) are digests in hex; 'by' is a text that
** says what was checked: a signature's digest, or the place where signatures were found.
*/
bool tr_verdict_find(const char *sha256, const char *requirement, const char *by,
                     size_t len, tr_key_set *signers);

/* Remember a good verdict. The memory has room for some thousands; the oldest go. */
void tr_verdict_remember(const char *sha256, const char *requirement, const char *by,
                         size_t len, tr_key_set signers);

/* Forget all verdicts, and what was noted. */
void tr_verdicts_forget(void);

/* Return true if a text about the bytes with this SHA-256 was noted, and note it if 'note' says
** so. After thousands of others it may be forgotten. */
bool tr_verdicts_noted(const char *sha256, const char *what, bool note);

#endif
