/*
** Addresses are refused before anything is sent to them: a connection, even one
** without a byte, tells whether a port is open.
*/
#include "socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http.h"
#include "request.h"

enum {
  KEEPALIVE_SECONDS = 15, /* of silence before the peer is probed */
  KEEPALIVE_PROBES = 3,
  /* A connection whose data is not acknowledged for so long is dead, and leaves
  ** libcurl's pool: NATs and balancers drop connections in silence. */
  UNACKNOWLEDGED_MS = 20000
};

/* True if the peer of this request is chosen by us: a proxy and a unix socket
** are the operator's choice, and only the proxy knows whom it asks. */
static bool checks_peer(const tr_request *r) {
  return r->config->unix_socket == NULL && r->proxy[0] == '\0';
}

/* Note an address that must not be asked. True: it must not. */
static bool is_refused(tr_request *r, const char *address) {
  bool link_local = tr_address_is_link_local(address);
  if (!checks_peer(r) ||
      (!link_local && !(r->refuse_private && tr_address_is_private(address))))
    return false;
  r->link_local |= link_local;
  snprintf(r->refused, sizeof r->refused, "%s", address);
  return true;
}

static void set_option(int fd, int level, int name, int value) {
  setsockopt(fd, level, name, &value,
             sizeof value); /* better with than without */
}

static void keep_alive(int fd) {
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_SECONDS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_SECONDS / 3);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS);
}

/*
** The open sockets of plain connections, with their own ports: libcurl does not
** tell which socket a request is about to use. The driver's.
*/
static struct plain_socket {
  int fd, port; /* port 0: not connected yet */
  bool used;    /* by a request before */
} *plain;
static size_t plain_count, plain_room;

static void add_plain(int fd) {
  if (plain_count == plain_room) {
    size_t room = plain_room > 0 ? 2 * plain_room : 64;
    struct plain_socket *larger = realloc(plain, room * sizeof *plain);
    if (larger == NULL)
      return; /* then it is not checked */
    plain = larger;
    plain_room = room;
  }
  plain[plain_count++] = (struct plain_socket){.fd = fd};
}

/* The socket that is bound to a port, or NULL. */
static struct plain_socket *find_plain(int port) {
  size_t i;
  for (i = 0; i < plain_count; i++)
    if (plain[i].port == port)
      return &plain[i];
  return NULL;
}

/* Note the ports of sockets that are connected by now. */
static void note_ports(void) {
  size_t i;
  for (i = 0; i < plain_count; i++) {
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    if (plain[i].port != 0 ||
        getsockname(plain[i].fd, (struct sockaddr *)&own, &len) != 0)
      continue;
    plain[i].port = ntohs(own.ss_family == AF_INET6
                              ? ((struct sockaddr_in6 *)&own)->sin6_port
                              : ((struct sockaddr_in *)&own)->sin_port);
  }
}

int tr_socket_close(void *context, curl_socket_t fd) {
  size_t i;
  (void)context; /* it may be gone */
  for (i = 0; i < plain_count; i++)
    if (plain[i].fd == fd) {
      plain[i] = plain[--plain_count];
      break;
    }
  return close(fd);
}

void tr_socket_forget_all(void) { plain_count = 0; }

curl_socket_t tr_socket_open(void *context, curlsocktype purpose,
                             struct curl_sockaddr *address) {
  tr_request *r = ((tr_handle *)context)->request;
  char text[INET6_ADDRSTRLEN] = "";
  const struct sockaddr *a = &address->addr;
  int fd;
  (void)purpose;
  if (a->sa_family == AF_INET)
    inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, text,
              sizeof text);
  else if (a->sa_family == AF_INET6)
    inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)a)->sin6_addr, text,
              sizeof text);
  if (text[0] != '\0' && is_refused(r, text))
    return CURL_SOCKET_BAD;
  fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
              address->protocol);
  if (fd < 0) {
    r->socket_errno = errno;
    return CURL_SOCKET_BAD;
  }
  r->tried_addresses++;
  if (text[0] != '\0')
    keep_alive(fd);
  if (text[0] != '\0' && !r->url.secure)
    add_plain(fd);
  return fd;
}

/*
** True if a plain connection that was used before has something to read: bytes
** that belong to no request, which would become the response to this one, or its
** end. (TLS may have a session ticket to read, and HTTP/2 frames of its own.)
*/
static bool is_out_of_step(int port) {
  struct plain_socket *s = find_plain(port);
  struct pollfd look = {.events = POLLIN};
  bool used;
  if (s == NULL) {
    note_ports();
    s = find_plain(port);
  }
  if (s == NULL)
    return false;
  used = s->used;
  s->used = true;
  look.fd = s->fd;
  return used && poll(&look, 1, 0) > 0;
}

int tr_socket_connected(void *context, char *peer, char *own, int peer_port,
                        int own_port) {
  tr_handle *h = context;
  tr_request *r = h->request;
  long opened = 0;
  (void)own, (void)peer_port;
  if (is_refused(r, peer))
    return CURL_PREREQFUNC_ABORT;
  curl_easy_getinfo(h->easy, CURLINFO_NUM_CONNECTS, &opened);
  r->reused = opened == 0;
  if (!r->url.secure && is_out_of_step(own_port)) {
    r->out_of_step = true;
    return CURL_PREREQFUNC_ABORT;
  }
  r->connected = true;
  r->on_connected(r);
  r->last_progress = tr_now();
  if (r->info != NULL && r->info->connected < 0)
    r->info->connected = r->last_progress - r->submitted;
  return CURL_PREREQFUNC_OK;
}
