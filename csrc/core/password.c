#include "password.h"

#include <errno.h>
#include <fcntl.h>
#include <mbedtls/platform_util.h>
#include <poll.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "future.h"

/* Read up to the end of a line. False with errno. */
static bool read_line(int tty, char *line, size_t *len) {
  const int slice = 100; /* ms, between two looks for an interrupt */
  struct pollfd look = {.fd = tty, .events = POLLIN};
  char c;
  for (*len = 0;;) {
    ssize_t n = poll(&look, 1, slice) > 0 ? read(tty, &c, 1) : -1;
    if (tr_interrupted()) {
      errno = EINTR;
      return false;
    }
    if (n < 0 && look.revents != 0 && errno != EINTR && errno != EAGAIN)
      return false;
    look.revents = 0;
    if (n == 0 || (n == 1 && (c == '\n' || c == '\r')))
      return true;
    if (n == 1 && *len == TR_PASSWORD_MAX) {
      errno = EMSGSIZE;
      return false;
    }
    if (n == 1)
      line[(*len)++] = c;
  }
}

bool tr_password_read(const char *prompt, char password[TR_PASSWORD_MAX], size_t *len,
                      tr_error *error) {
  struct termios before, silent;
  int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
  bool done = false;
  if (tty < 0 || tcgetattr(tty, &before) != 0) {
    tr_error_set(error, TR_DENIED,
                 "the key is encrypted, and there is no terminal to ask for its password");
    if (tty >= 0)
      close(tty);
    return false;
  }
  silent = before;
  silent.c_lflag &= ~(tcflag_t)ECHO;
  if (tcsetattr(tty, TCSAFLUSH, &silent) == 0) {
    done = tr_file_write_all(tty, prompt, strlen(prompt)) &&
           read_line(tty, password, len);
    if (!done)
      tr_error_errno(error, tr_interrupted() ? ECANCELED : errno, "Failed to read", "the password");
    tcsetattr(tty, TCSAFLUSH, &before);
    tr_file_write_all(tty, "\n", 1);
  } else {
    tr_error_errno(error, errno, "Failed to set", "the terminal");
  }
  close(tty);
  if (!done)
    mbedtls_platform_zeroize(password, TR_PASSWORD_MAX);
  return done;
}
