/* The grammar of oci:// references: that of the distribution specification. */
#ifndef TR_OCI_REFERENCE_H
#define TR_OCI_REFERENCE_H

#include "url.h"

enum {
  TR_OCI_NAME_MAX = 255, /* bytes of a repository's name */
  TR_OCI_TAG_MAX = 128,
  TR_OCI_DIGEST_HEX = 64
};

/*
** The parts of "oci://registry/repository[:tag][@sha256:hex][?ns=registry][#fragment]".
** Texts are malloc'ed; NULL: the reference does not have it. The registry is in normal
** form: in lower case, without the port 443; docker.io also if it was written as one of
** that registry's other names, and then "library/" is in front of a name of one part.
*/
typedef struct tr_oci_reference {
  char *registry;   /* host[:port], an IPv6 address with its brackets */
  char *host;       /* without brackets */
  int port;
  char *repository;
  char *tag;
  char *manifest;   /* 64 lower-case hex digits */
  char *ns;         /* the registry that a mirror is to ask */
  char *fragment;   /* as written, without '#' */
} tr_oci_reference;

/* Parse 'text'. NULL, or the fault: a static string such as "its tag has more than 128
** characters"; then there is nothing to free. */
const char *tr_oci_reference_parse(tr_oci_reference *reference,
                                   const char *text);
void tr_oci_reference_free(tr_oci_reference *reference);

/* True if a text is "sha256:" and 64 lower-case hex digits. */
bool tr_oci_is_digest(const char *text, size_t len);

/* The fault of a text as a tag, or NULL. */
const char *tr_oci_tag_fault(const char *text, size_t len);

#endif
