/* Signatures of artifacts in registries: of a manifest's digest, not of some bytes. */
#ifndef TR_IMAGE_SIGNATURE_H
#define TR_IMAGE_SIGNATURE_H

#include "requirement.h"

/*
** Find the keys of a requirement by which 'signature', in base64, signs a payload, and read
** the payload (containers' simple signing, with cosign's type) once one of them did.
** 'manifest' gets the digest, in hex, that it is about: whoever calls this compares it.
**
** False with the error, as tr_signature_check.
*/
bool tr_image_signature_check(const tr_requirement *requirement, const void *payload,
                              size_t payload_size, const char *signature,
                              size_t signature_size, char manifest[TR_HEX_MAX],
                              tr_key_set *signers, tr_error *error);

/* Find the keys of a requirement by which a sigstore bundle signs the manifest with a
** digest, 64 digits of hex. False with the error, as tr_signature_check. */
bool tr_image_bundle_check(const tr_requirement *requirement, const char *manifest,
                           const char *bundle, size_t size, tr_key_set *signers,
                           tr_error *error);

#endif
