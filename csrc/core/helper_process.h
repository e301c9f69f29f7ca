/* Programs that tell credentials, run beside the program that needs them. */
#ifndef TR_HELPER_PROCESS_H
#define TR_HELPER_PROCESS_H

#include "theaterref.h"

/*
** Run 'program', which is looked up in PATH, with one argument, and give it 'input'. The
** future is completed with what it prints, on a thread of its own: after 'seconds' the
** program, and those it started, are killed, and also if this process ends before that, in
** any way. It inherits no descriptors but these pipes,
** and no signals that are blocked or ignored.
**
** The errors: TR_NOT_FOUND if there is no such program, TR_TIMEOUT, and TR_IO, also for an
** exit status other than 0. Whatever the program printed is in no error. False with the
** error if it cannot be started; then the future has no result yet.
*/
bool tr_helper_run(const char *program, const char *argument,
                   const char *input, size_t len, double seconds,
                   tr_future *future, tr_error *error);

#endif
