/*
** The sockets of the multi handle, by epoll: the cost of an event does not depend on
** the number of connections that wait. (curl_multi_perform asks the system about each
** of them, each time.)
*/
#include "events.h"

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "socket.h"

enum { MAX_READY = 64 };

static struct {
  CURLM *multi;
  int epoll_fd, wake_fd;
  struct epoll_event ready[MAX_READY];
  int ready_count;
} events = {.epoll_fd = -1};

static bool watch(int fd, uint32_t what) {
  struct epoll_event event = {.events = what, .data.fd = fd};
  return epoll_ctl(events.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ||
         (errno == EEXIST &&
          epoll_ctl(events.epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0);
}

/* libcurl's callback: it is interested in something else from now on. */
static int on_interest(CURL *easy, curl_socket_t fd, int what, void *context,
                       void *known) {
  (void)easy;
  (void)context;
  (void)known;
  if (what == CURL_POLL_REMOVE) {
    epoll_ctl(events.epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    return 0;
  }
  return watch(fd, (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) |
                       (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0))
             ? 0
             : -1;
}

bool tr_events_open(CURLM *multi, int wake_fd) {
  events.multi = multi;
  events.wake_fd = wake_fd;
  events.ready_count = 0;
  events.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (events.epoll_fd < 0)
    return false;
  curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_interest);
  if (watch(wake_fd, EPOLLIN))
    return true;
  tr_events_close();
  return false;
}

void tr_events_close(void) {
  close(events.epoll_fd);
  events.epoll_fd = -1;
}

void tr_events_forget(void) { events.epoll_fd = -1; }

bool tr_events_wait(int ms) {
  long timer = -1;
  int count;
  curl_multi_timeout(events.multi, &timer);
  if (timer >= 0 && timer < ms)
    ms = (int)timer;
  count = epoll_wait(events.epoll_fd, events.ready, MAX_READY, ms);
  events.ready_count = count > 0 ? count : 0;
  return count > 0 || timer == 0;
}

void tr_events_look_at(int fd) {
  int n = events.ready_count;
  if (fd < 0 || (n > 0 && events.ready[n - 1].data.fd == fd))
    return;
  if (n == MAX_READY)
    tr_events_run();
  n = events.ready_count++;
  events.ready[n] = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
}

static void drain_posts(void) {
  uint64_t count;
  while (read(events.wake_fd, &count, sizeof count) < 0 && errno == EINTR)
    ;
}

/* Have libcurl look at a socket, or at its timer: CURL_SOCKET_TIMEOUT is below 0. */
static void act(int fd, int what) {
  int running;
  tr_socket_attend(fd);
  curl_multi_socket_action(events.multi, fd, what, &running);
}

void tr_events_run(void) {
  long timer = -1;
  int i;
  curl_multi_timeout(events.multi, &timer);
  if (events.ready_count == 0 && timer != 0) /* else there is enough to do */
    tr_events_wait(0);
  for (i = 0; i < events.ready_count; i++) {
    uint32_t what = events.ready[i].events;
    if (events.ready[i].data.fd == events.wake_fd)
      drain_posts();
    else
      act(events.ready[i].data.fd,
          (what & (EPOLLIN | EPOLLERR | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
              (what & EPOLLOUT ? CURL_CSELECT_OUT : 0));
  }
  events.ready_count = 0;
  curl_multi_timeout(events.multi, &timer);
  if (timer == 0)
    act(CURL_SOCKET_TIMEOUT, 0);
}
