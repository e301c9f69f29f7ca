/* Reading the documents of registries: which entry of an index, which layer of a manifest. */
#ifndef TR_OCI_SELECT_H
#define TR_OCI_SELECT_H

#include "blob.h"
#include "theaterref.h"

enum { TR_OCI_TYPE_MAX = 256 };

typedef enum tr_oci_kind {
  TR_OCI_MANIFEST, /* the entry of an index: another document to read */
  TR_OCI_LAYER
} tr_oci_kind;

/* The entry or the layer that a document leads to. */
typedef struct tr_oci_choice {
  tr_oci_kind kind;
  char digest[TR_HEX_MAX]; /* SHA-256, in lower-case hex */
  uint64_t size;
  char media_type[TR_OCI_TYPE_MAX]; /* as the document has it, or empty */
} tr_oci_choice;

/*
** Choose from a document, an index or a manifest, of OCI or Docker.
**
** Of an index, the entry for the architecture "wasm", or the only one. Of a manifest, the
** layer whose title is 'title'; without one (NULL), the only layer of a WebAssembly type,
** or the only layer. 'media_type' is what the server called the document, or NULL. A
** document is refused if two media types that are known contradict each other, if it has
** both "manifests" and "layers", or if it names one of its fields twice.
**
** False with the error: TR_SYNTAX for a document that is none, TR_NOT_FOUND if it does
** not have what is wanted, TR_INVALID_REFERENCE if a title is needed to choose.
*/
bool tr_oci_select(const char *document, size_t len, const char *title,
                   const char *media_type, tr_oci_choice *choice,
                   tr_error *error);

#endif
