/* Threads of the library's own, and conditions that no change of the clock moves. */
#ifndef TR_THREAD_H
#define TR_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

/*
** Start a thread in which every signal is blocked, so that a program's own
** threads get them, as sigwait and signalfd need. It is to be joined, and has a name
** of up to 15 bytes for debuggers. False when there are no resources for one.
*/
static inline bool tr_thread_create(pthread_t *thread, const char *name,
                                    void *(*run)(void *), void *context) {
  sigset_t all, before;
  bool started;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  started = pthread_create(thread, NULL, run, context) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (started)
    pthread_setname_np(*thread, name);
  return started;
}

/* The same, detached. */
static inline bool tr_thread_start(const char *name, void *(*run)(void *)) {
  pthread_t thread;
  return tr_thread_create(&thread, name, run, NULL) &&
         pthread_detach(thread) == 0;
}

/* Make a condition whose waits go by tr_now(). */
static inline void tr_condition_init(pthread_cond_t *condition) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attr);
  pthread_condattr_destroy(&attr);
}

/* Wait for a condition until a moment of tr_now(), which must be finite. False
** when it has come. */
static inline bool tr_condition_wait(pthread_cond_t *condition,
                                     pthread_mutex_t *lock, double moment) {
  struct timespec until;
  until.tv_sec = (time_t)moment;
  until.tv_nsec = (long)((moment - (double)until.tv_sec) * 1e9);
  return pthread_cond_timedwait(condition, lock, &until) == 0;
}

#endif
