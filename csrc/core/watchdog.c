/*
** libcurl and OpenSSL read on for as long as there is something to read: a server that
** sends records or frames without meaning and without an end keeps the driver, and with
** it every other fetch and every deadline, for as long as it likes. So another thread
** looks at the driver now and then, and shuts down the socket that it reads from.
*/
#include "watchdog.h"

#include <stdatomic.h>
#include <time.h>

#include "socket.h"
#include "thread.h"

enum {
  LOOK_MS = 200,
  /* Looks at the same work, after which its socket is broken off. They are counted, so
  ** that a process that was stopped for a while breaks nothing. */
  PATIENCE = 5,
  IDLE_LOOKS = 50     /* without any work, after which the thread ends */
};

static atomic_uint work; /* odd: the driver is at work */
static atomic_bool running;

static void *run(void *unused) {
  const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
  unsigned before = atomic_load(&work);
  int busy = 0, idle = 0;
  (void)unused;
  for (;;) {
    unsigned now;
    nanosleep(&pause, NULL);
    now = atomic_load(&work);
    busy = now == before && now % 2 == 1 ? busy + 1 : 0;
    idle = now == before && now % 2 == 0 ? idle + 1 : 0;
    before = now;
    if (busy == 1)
      tr_socket_note_consumed();
    if (busy >= PATIENCE)
      tr_socket_break_greediest();
    if (idle < IDLE_LOOKS)
      continue;
    atomic_store(&running, false);
    if (atomic_load(&work) == now || atomic_exchange(&running, true))
      return NULL; /* work from now on starts a thread, or has done so */
    idle = 0;
  }
}

void tr_watchdog_begin(void) {
  atomic_fetch_add(&work, 1);
  if (!atomic_load(&running) && !atomic_exchange(&running, true) &&
      !tr_thread_start("theaterref-dog", run))
    atomic_store(&running, false); /* the next work tries again */
}

void tr_watchdog_end(void) { atomic_fetch_add(&work, 1); }

void tr_watchdog_forget(void) {
  atomic_store(&running, false);
  atomic_store(&work, 0);
}
