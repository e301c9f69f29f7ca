/* Finds libcurl and its functions. */
#include "libcurl.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "crypto.h"
#include "error.h"

tr_curl_functions tr_curl;

static char version[256], fault[256];

/* libcurl's own names for what it is built on, such as "OpenSSL/3.0.15". */
static void keep_version(void) {
  const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
  snprintf(version, sizeof version, "libcurl/%s %s%s%s", info->version,
           info->ssl_version != NULL ? info->ssl_version : "without TLS",
           info->features & CURL_VERSION_HTTP2 ? " HTTP/2" : "",
           info->features & CURL_VERSION_BROTLI ? " brotli" : "");
}

/*
** OpenSSL's exit handler frees what threads that initialise it, hash, or end at
** that moment still use. Initialise it without one, unless the program has
** initialised it already. Its memory goes with the process.
*/
static void drop_openssl_exit_handler(void) {
  static const uint64_t no_atexit = 0x00080000; /* OPENSSL_INIT_NO_ATEXIT */
  int (*init)(uint64_t, const void *) = NULL;
  void *library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_NOLOAD), *address;
  if (library == NULL) /* libcurl uses another library */
    return;
  address = dlsym(library, "OPENSSL_init_crypto");
  memcpy(&init, &address, sizeof address);
  if (init != NULL)
    init(no_atexit, NULL);
}

/* The authorities of the environment, as the command curl has them; NULL: none. It is
** read once, since no other thread may change the environment meanwhile. */
static char *environment_ca_file;

static void keep_ca_file(void) {
  const char *path = getenv("SSL_CERT_FILE");
  if (path == NULL || *path == '\0')
    return;
  environment_ca_file = strdup(path);
  if (environment_ca_file == NULL)
    snprintf(fault, sizeof fault, "out of memory");
}

static void open_once(void) {
  void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(fault, sizeof fault, "%s; install libcurl (on Debian: libcurl4)",
             dlerror());
    return;
  }
  /* POSIX lets an object pointer hold a function's address; ISO C does not. */
#define FIND(name)                                                             \
  {                                                                            \
    void *address = dlsym(library, "curl_" #name);                             \
    memcpy(&tr_curl.name, &address, sizeof address);                           \
    if (address == NULL && fault[0] == '\0')                                   \
      snprintf(fault, sizeof fault,                                            \
               "this libcurl has no curl_" #name "; 7.83 or newer is needed"); \
  }
  TR_CURL_FUNCTIONS(FIND)
#undef FIND
  drop_openssl_exit_handler();
  keep_ca_file();
  if (fault[0] == '\0' && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
    snprintf(fault, sizeof fault, "libcurl could not be initialized");
  if (fault[0] == '\0')
    keep_version();
  tr_crypto_use_libcrypto();
}

bool tr_curl_open(tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, open_once);
  if (fault[0] == '\0')
    return true;
  tr_error_set(error, TR_IO, "%s", fault);
  return false;
}

/* The descriptors of this process that children would inherit: a set of bits for
** the first thousand. */
static void find_inherited(unsigned char open_ones[128]) {
  DIR *folder = opendir("/proc/self/fd");
  struct dirent *item;
  memset(open_ones, 0, 128);
  while (folder != NULL && (item = readdir(folder)) != NULL) {
    int fd = atoi(item->d_name);
    if (fd > 2 && fd < 1024 && fd != dirfd(folder) &&
        (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0)
      open_ones[fd / 8] |= (unsigned char)(1 << fd % 8);
  }
  if (folder != NULL)
    closedir(folder);
}

/* True for what libcurl wakes itself up by: a pair of sockets without a name, or an
** eventfd. The program may have opened others meanwhile. */
static bool may_be_libcurls(int fd) {
  struct sockaddr_un address;
  socklen_t len = sizeof address;
  char path[32], target[32] = "";
  if (getsockname(fd, (struct sockaddr *)&address, &len) == 0)
    return address.sun_family == AF_UNIX && len == sizeof address.sun_family;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return readlink(path, target, sizeof target - 1) > 0 &&
         strcmp(target, "anon_inode:[eventfd]") == 0;
}

CURLM *tr_curl_new_multi(void) {
  unsigned char before[128], after[128];
  CURLM *multi;
  int fd;
  find_inherited(before);
  multi = curl_multi_init();
  find_inherited(after);
  for (fd = 0; fd < 1024; fd++)
    if (after[fd / 8] & ~before[fd / 8] & 1 << fd % 8 && may_be_libcurls(fd))
      fcntl(fd, F_SETFD, FD_CLOEXEC);
  return multi;
}

const char *tr_curl_version(void) {
  tr_error error;
  return tr_curl_open(&error) ? version : NULL;
}

/* OpenSSL's SSL_has_pending, or NULL. */
static int (*has_pending)(const void *ssl);

static void find_has_pending(void) {
  static const char *const names[] = {"libssl.so.3", "libssl.so.1.1"};
  void *library = NULL, *address;
  size_t i;
  for (i = 0; library == NULL && i < sizeof names / sizeof *names; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
  address = library != NULL ? dlsym(library, "SSL_has_pending") : NULL;
  memcpy(&has_pending, &address, sizeof address);
}

bool tr_curl_has_unread(CURL *easy) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  struct curl_tlssessioninfo *session = NULL;
  pthread_once(&once, find_has_pending);
  return has_pending == NULL ||
         curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &session) != CURLE_OK ||
         session == NULL || session->internals == NULL ||
         session->backend != CURLSSLBACKEND_OPENSSL ||
         has_pending(session->internals) != 0;
}

bool tr_curl_has_openssl(void) {
  tr_error error;
  const char *tls;
  if (!tr_curl_open(&error))
    return false;
  tls = curl_version_info(CURLVERSION_NOW)->ssl_version;
  return tls != NULL && strncmp(tls, "OpenSSL/", 8) == 0;
}

const char *tr_curl_environment_ca_file(void) { return environment_ca_file; }

const char *tr_curl_ca_file(void) {
  tr_error error;
  const curl_version_info_data *info;
  if (!tr_curl_open(&error))
    return NULL;
  if (environment_ca_file != NULL)
    return environment_ca_file;
  info = curl_version_info(CURLVERSION_NOW);
  return info->age >= CURLVERSION_SEVENTH ? info->cainfo : NULL;
}
