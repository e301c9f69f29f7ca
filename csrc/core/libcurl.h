/*
** libcurl, opened at the first fetch and not before: it brings some twenty
** libraries along, and loading them takes longer than all else that a program
** which fetches nothing would wait for. Include this instead of curl/curl.h;
** libcurl's functions keep their names and go by way of a table.
*/
#ifndef TR_LIBCURL_H
#define TR_LIBCURL_H

#include <curl/curl.h>
#include <stdbool.h>

#include "theaterref.h"

#define TR_CURL_FUNCTIONS(F)                                                   \
  F(easy_cleanup)                                                              \
  F(easy_getinfo)                                                              \
  F(easy_init)                                                                 \
  F(easy_pause)                                                                \
  F(easy_setopt)                                                               \
  F(easy_strerror)                                                             \
  F(getdate)                                                                   \
  F(global_init)                                                               \
  F(multi_add_handle)                                                          \
  F(multi_cleanup)                                                             \
  F(multi_info_read)                                                           \
  F(multi_init)                                                                \
  F(multi_perform)                                                             \
  F(multi_poll)                                                                \
  F(multi_remove_handle)                                                       \
  F(multi_setopt)                                                              \
  F(slist_append)                                                              \
  F(slist_free_all)                                                            \
  F(strequal)                                                                  \
  F(strnequal)                                                                 \
  F(version_info)

#define TR_CURL_MEMBER(name) __typeof__(curl_##name) *name;
typedef struct tr_curl_functions {
  TR_CURL_FUNCTIONS(TR_CURL_MEMBER)
} tr_curl_functions;
#undef TR_CURL_MEMBER

/* Filled in by tr_curl_open. */
extern tr_curl_functions tr_curl;

/*
** Opens and initializes libcurl, once for the process; any thread may ask.
** False with the error where there is none, or one that is too old.
*/
bool tr_curl_open(tr_error *error);

/* True if libcurl's TLS is OpenSSL's, and OpenSSL's names for ciphers are valid. */
bool tr_curl_has_openssl(void);

/* True if TLS may hold bytes of the connection of a transfer that is about to begin,
** where the system does not see them. Only for a connection over TLS. */
bool tr_curl_has_unread(CURL *easy);

/* The file of authorities that SSL_CERT_FILE names, or NULL; once libcurl is open. */
const char *tr_curl_environment_ca_file(void);

/* A multi handle whose own descriptors no child inherits. NULL: no memory. */
CURLM *tr_curl_new_multi(void);

/* 'make lint' defines this, so that gcc checks the options' types, as it
** only can where the functions are libcurl's own. */
#ifndef TR_CURL_LINKED
#undef curl_easy_getinfo
#undef curl_easy_setopt
#undef curl_multi_setopt
#define curl_easy_cleanup tr_curl.easy_cleanup
#define curl_easy_getinfo tr_curl.easy_getinfo
#define curl_easy_init tr_curl.easy_init
#define curl_easy_pause tr_curl.easy_pause
#define curl_easy_setopt tr_curl.easy_setopt
#define curl_easy_strerror tr_curl.easy_strerror
#define curl_getdate tr_curl.getdate
#define curl_global_init tr_curl.global_init
#define curl_multi_add_handle tr_curl.multi_add_handle
#define curl_multi_cleanup tr_curl.multi_cleanup
#define curl_multi_info_read tr_curl.multi_info_read
#define curl_multi_init tr_curl.multi_init
#define curl_multi_perform tr_curl.multi_perform
#define curl_multi_poll tr_curl.multi_poll
#define curl_multi_remove_handle tr_curl.multi_remove_handle
#define curl_multi_setopt tr_curl.multi_setopt
#define curl_slist_append tr_curl.slist_append
#define curl_slist_free_all tr_curl.slist_free_all
#define curl_strequal tr_curl.strequal
#define curl_strnequal tr_curl.strnequal
#define curl_version_info tr_curl.version_info
#endif

#endif
