/* The files that libcurl opens by itself: it reads them to their end, past all timeouts. */
#include "config_files.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "file.h"
#include "redact.h"

enum {
  MAX_FILE = 16 << 20, /* bytes; a bundle of authorities has a quarter of one MiB */
  PASSWD_ROOM = 4096
};

/* True for /dev/null, to which .netrc is linked where it must have nothing in it. */
static bool is_null_device(const struct stat *st) {
  return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

/* The reason why a file may not be read; NULL: none, or stat fails, and so will libcurl. */
static const char *fault_of(const char *path, bool may_be_empty) {
  struct stat st;
  if (stat(path, &st) != 0)
    return NULL;
  if (may_be_empty && (S_ISDIR(st.st_mode) || is_null_device(&st)))
    return NULL;
  if (!S_ISREG(st.st_mode))
    return "is not a regular file";
  if (st.st_size > MAX_FILE)
    return "is larger than 16 MiB";
  return st.st_size == 0 && !may_be_empty /* so are those in /proc that wait */
             ? "is empty"
             : NULL;
}

static bool check(const char *option, const char *path, bool may_be_empty,
                  char why[TR_FILE_FAULT]) {
  const char *fault = path != NULL ? fault_of(path, may_be_empty) : NULL;
  char *shown;
  if (fault == NULL)
    return true;
  shown = tr_displayed(path);
  snprintf(why, TR_FILE_FAULT, "%s names %s, which %s", option,
           shown != NULL ? shown : "?", fault);
  free(shown);
  return false;
}

/* Check .netrc where libcurl looks for it: in $HOME, or else the user's own folder. */
static bool check_netrc(char why[TR_FILE_FAULT]) {
  const char *home = getenv("HOME");
  struct passwd user, *found = NULL;
  char room[PASSWD_ROOM], *path;
  bool ok;
  if ((home == NULL || home[0] == '\0') &&
      getpwuid_r(geteuid(), &user, room, sizeof room, &found) == 0 && found != NULL)
    home = user.pw_dir;
  path = home != NULL ? tr_path_join(home, ".netrc") : NULL;
  ok = check("netrc", path, true, why);
  free(path);
  return ok;
}

tr_error_kind tr_config_check_files(const tr_config *c, bool secure,
                                    char why[TR_FILE_FAULT]) {
  bool ok = true;
  if (c->netrc && !check_netrc(why))
    return TR_IO;
  if (!secure)
    return TR_OK;
  if (c->ca_file != NULL)
    ok = check("ca_file", c->ca_file, false, why);
  else
    ok = check("SSL_CERT_FILE", tr_curl_environment_ca_file(), false, why);
  return ok && check("client_cert", c->client_cert, false, why) &&
                 check("client_key", c->client_key, false, why)
             ? TR_OK
             : TR_TLS; /* as for a file that cannot be read */
}
