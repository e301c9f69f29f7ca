/* The sockets of fetches: made here, and refused here. */
#ifndef TR_SOCKET_H
#define TR_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "libcurl.h"

/* libcurl's CURLOPT_OPENSOCKETFUNCTION; the context is a tr_handle. */
curl_socket_t tr_socket_open(void *handle, curlsocktype purpose,
                             struct curl_sockaddr *address);

/* libcurl's CURLOPT_CLOSESOCKETFUNCTION. */
int tr_socket_close(void *unused, curl_socket_t fd);

/* An HTTP/1 response has begun on a connection (tr_request.connection), which may be
** reused after it. */
void tr_socket_answered(uint64_t connection);

/* For the watchdog, which is on another thread: note how much was read from each socket,
** and later shut down the one from which most was read since then, if it is more than a
** body may take of a turn. libcurl then fails what runs on it. The second time within a
** minute, so are all others to its origin, which gets no new ones for as long. */
void tr_socket_note_consumed(void);
void tr_socket_break_greediest(void);

/* The fault of those requests. */
#define TR_ENDLESS "the server keeps sending data that is not an HTTP response"

/* True if a connection was broken like that, a moment ago. */
bool tr_socket_was_broken(uint64_t connection);

/* In a child: forget the sockets, which are the parent's. */
void tr_socket_forget_all(void);

/* libcurl's CURLOPT_PREREQFUNCTION: there is a connection, new or used before,
** and nothing is sent yet. */
int tr_socket_connected(void *handle, char *peer, char *own, int peer_port,
                        int own_port);

#endif
