/* Asks for a password on the terminal. */
#ifndef TR_PASSWORD_H
#define TR_PASSWORD_H

#include "theaterref.h"

enum { TR_PASSWORD_MAX = 1024 };

/*
** Show a prompt on the terminal of the process (/dev/tty), and read a line without showing
** it. Wipe 'password' after use. False with the error, also after an interrupt, and
** where there is no terminal; the terminal then is as it was.
*/
bool tr_password_read(const char *prompt, char password[TR_PASSWORD_MAX], size_t *len,
                      tr_error *error);

#endif
