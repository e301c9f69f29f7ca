/* The sockets of fetches: made here, and refused here. */
#ifndef TR_SOCKET_H
#define TR_SOCKET_H

#include "libcurl.h"

/* libcurl's CURLOPT_OPENSOCKETFUNCTION; the context is a tr_handle. */
curl_socket_t tr_socket_open(void *handle, curlsocktype purpose,
                             struct curl_sockaddr *address);

/* libcurl's CURLOPT_CLOSESOCKETFUNCTION. */
int tr_socket_close(void *unused, curl_socket_t fd);

/* An HTTP/1 response has begun on a socket, which may be reused after it. Below 0
** is none. */
void tr_socket_answered(int fd);

/* libcurl is about to work on a socket, or on none in particular (below 0). */
void tr_socket_attend(int fd);
/* Shut down the socket that libcurl works on, or all of them: it fails what runs on
** them. Any thread. */
void tr_socket_break(bool all);

/* In a child: forget the sockets, which are the parent's. */
void tr_socket_forget_all(void);

/* libcurl's CURLOPT_PREREQFUNCTION: there is a connection, new or used before,
** and nothing is sent yet. */
int tr_socket_connected(void *handle, char *peer, char *own, int peer_port,
                        int own_port);

#endif
