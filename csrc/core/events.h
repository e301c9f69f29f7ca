/* The events that the driver waits for: of sockets, of libcurl's timer, and posts. */
#ifndef TR_EVENTS_H
#define TR_EVENTS_H

#include "libcurl.h"

/* Watch the sockets of a multi handle, and 'wake_fd', an eventfd. False with errno
** set. */
bool tr_events_open(CURLM *multi, int wake_fd);
void tr_events_close(void);

/* Forget them, in a child. */
void tr_events_forget(void);

/* Sleep until something happens, for so many milliseconds at most. False: nothing
** did. */
bool tr_events_wait(int ms);

/* Have libcurl look at a socket the next time, though there is no event: 7.88 may keep
** data of one stream that came with another's. */
void tr_events_look_at(int fd);

/* Have libcurl see to its timer, and to the sockets that are ready. */
void tr_events_run(void);

#endif
