/* Threads of the library's own. */
#ifndef TR_THREAD_H
#define TR_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

/*
** Start a thread in which every signal is blocked, so that a program's own
** threads get them, as sigwait and signalfd need. It is detached, and has a name
** of up to 15 bytes for debuggers. False when there are no resources for one.
*/
static inline bool tr_thread_start(const char *name, void *(*run)(void *)) {
  sigset_t all, before;
  pthread_t thread;
  bool started;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  started = pthread_create(&thread, NULL, run, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (started) {
    pthread_setname_np(thread, name);
    pthread_detach(thread);
  }
  return started;
}

#endif
