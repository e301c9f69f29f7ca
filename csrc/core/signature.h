/* Signature documents: which keys signed some bytes. */
#ifndef TR_SIGNATURE_H
#define TR_SIGNATURE_H

#include "requirement.h"

enum { TR_SIGNATURE_MAX = 1024 * 1024 }; /* bytes of a document */

/*
** Find the keys of a requirement by which a document signs a blob. The document is a
** signature of cosign sign-blob in base64, a sigstore bundle, or a minisign signature.
** At least one key goes to '*signers'; the threshold is the caller's affair, since
** signatures may come in several documents.
**
** False with the error: of kind TR_UNTRUSTED if no key signed, with a message such as "it
** is a signature of other bytes or by another key"; of kind TR_IO if it could not be
** checked.
*/
bool tr_signature_check(const tr_requirement *requirement, tr_blob *blob,
                        const void *document, size_t size, tr_key_set *signers,
                        tr_error *error);

#endif
