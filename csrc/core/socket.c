/*
** Addresses are refused before anything is sent to them: a connection, even one
** without a byte, tells whether a port is open.
*/
#include "socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h> /* the system's own has no tcpi_bytes_received */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "http.h"
#include "request.h"
#include "table.h"

enum {
  KEEPALIVE_SECONDS = 15, /* of silence before the peer is probed */
  KEEPALIVE_PROBES = 3,
  /* A connection whose data is not acknowledged for so long is dead, and leaves
  ** libcurl's pool: NATs and balancers drop connections in silence. */
  UNACKNOWLEDGED_MS = 20000,
  /* Bytes of a body that the system takes before it has sent them: what it holds counts
  ** as sent, and a slow peer would seem to stall. */
  UNSENT_BYTES = 512 * 1024
};

/* True if the peer of this request is chosen by us: a proxy and a unix socket
** are the operator's choice, and only the proxy knows whom it asks. */
static bool checks_peer(const tr_request *r) {
  return r->config->unix_socket == NULL && r->proxy.url == NULL;
}

/* Note an address that must not be asked. True: it must not. */
static bool is_refused(tr_request *r, const char *address) {
  bool link_local = tr_address_is_link_local(address) && !r->may_be_link_local;
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
  set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES);
}

/*
** The open sockets with their addresses and ports, by which libcurl's callback can be
** told on which of them a request is about to be sent. The driver's: others may look
** under the lock, under which it adds and removes them.
*/
static struct known_socket {
  int fd, own_port, peer_port; /* ports 0: not connected yet */
  char own[INET6_ADDRSTRLEN], peer[INET6_ADDRSTRLEN];
  uint64_t consumed; /* bytes, when the watchdog noted it */
  uint64_t number;   /* tr_request.connection of all that use it */
  uint64_t origin;   /* a hash of the origin that it was opened for */
  bool broken;       /* by the watchdog */
  bool answered; /* a whole HTTP/1 response may have come: it is reused */
} *sockets;
static size_t socket_count, socket_room;
/* Those that the watchdog broke last: their requests end soon after. */
static struct broken_socket {
  uint64_t number, origin;
  double at;
} broken[256];
static size_t broken_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* More bytes than a body may take of a turn: only a server whose bytes are none of a body
** has so many read at once. */
enum { GREED = 2 << 20 };
/* Each holds up the driver for a second or two. After the second within a minute, an origin
** has no other connections any more, and gets none. */
enum { MAX_OFFENCES = 2, OFFENCE_SECONDS = 60 };

static uint64_t origin_of(const tr_request *r) {
  return tr_table_hash(r->url.text, r->url.origin_len);
}

/* False: memory is short. */
static bool add_socket(int fd, const tr_request *user) {
  pthread_mutex_lock(&lock);
  if (socket_count == socket_room) {
    size_t room = socket_room > 0 ? 2 * socket_room : 64;
    struct known_socket *larger = realloc(sockets, room * sizeof *sockets);
    if (larger == NULL) {
      pthread_mutex_unlock(&lock);
      return false;
    }
    sockets = larger;
    socket_room = room;
  }
  sockets[socket_count++] = (struct known_socket){
      .fd = fd,
      .number = user->connection,
      .origin = origin_of(user)};
  pthread_mutex_unlock(&lock);
  return true;
}

/* Bytes that were read from a socket in all; 0 for a unix socket. */
static uint64_t consumed(int fd) {
  struct tcp_info info = {0};
  socklen_t len = sizeof info;
  int unread = 0;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
      ioctl(fd, FIONREAD, &unread) != 0 ||
      info.tcpi_bytes_received < (uint64_t)unread)
    return 0;
  return info.tcpi_bytes_received - (uint64_t)unread;
}

void tr_socket_note_consumed(void) {
  size_t i;
  pthread_mutex_lock(&lock);
  for (i = 0; i < socket_count; i++)
    sockets[i].consumed = consumed(sockets[i].fd);
  pthread_mutex_unlock(&lock);
}

/* How many connections of an origin were broken within the last minute. The lock is held. */
static int offences(uint64_t origin, double now) {
  size_t i, kept = sizeof broken / sizeof *broken;
  int count = 0;
  for (i = 0; i < kept && i < broken_count; i++)
    count += broken[i].origin == origin && now - broken[i].at < OFFENCE_SECONDS;
  return count;
}

static void break_socket(struct known_socket *s, double now) {
  s->broken = true;
  broken[broken_count++ % (sizeof broken / sizeof *broken)] =
      (struct broken_socket){s->number, s->origin, now};
  shutdown(s->fd, SHUT_RDWR); /* does not block */
}

void tr_socket_break_greediest(void) {
  struct known_socket *most = NULL;
  uint64_t most_bytes = GREED;
  size_t i;
  pthread_mutex_lock(&lock); /* so that none is closed, and its number reused */
  for (i = 0; i < socket_count; i++) {
    uint64_t now = consumed(sockets[i].fd);
    if (!sockets[i].broken && now > sockets[i].consumed &&
        now - sockets[i].consumed > most_bytes) {
      most_bytes = now - sockets[i].consumed;
      most = &sockets[i];
    }
  }
  if (most != NULL) {
    double moment = tr_now();
    uint64_t origin = most->origin;
    bool enough;
    break_socket(most, moment);
    enough = offences(origin, moment) >= MAX_OFFENCES;
    for (i = 0; enough && i < socket_count; i++)
      if (!sockets[i].broken && sockets[i].origin == origin)
        break_socket(&sockets[i], moment);
  }
  pthread_mutex_unlock(&lock);
}

/* Write out an address; returns its port, 0 for a unix socket. */
static int describe(const struct sockaddr_storage *a, char *text) {
  if (a->ss_family == AF_INET6) {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    inet_ntop(AF_INET6, &v6->sin6_addr, text, INET6_ADDRSTRLEN);
    return ntohs(v6->sin6_port);
  }
  if (a->ss_family != AF_INET)
    return 0;
  inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, text,
            INET6_ADDRSTRLEN);
  return ntohs(((const struct sockaddr_in *)a)->sin_port);
}

/* Note the addresses of a socket once it is connected. */
static void note_addresses(struct known_socket *s) {
  struct sockaddr_storage own, peer;
  socklen_t own_len = sizeof own, peer_len = sizeof peer;
  if (getsockname(s->fd, (struct sockaddr *)&own, &own_len) == 0 &&
      getpeername(s->fd, (struct sockaddr *)&peer, &peer_len) == 0) {
    s->own_port = describe(&own, s->own);
    s->peer_port = describe(&peer, s->peer);
  }
}

static struct known_socket *find_socket(const char *own, int own_port,
                                        const char *peer, int peer_port) {
  size_t i;
  for (i = 0; i < socket_count; i++) {
    struct known_socket *s = &sockets[i];
    if (s->own_port == 0)
      note_addresses(s);
    if (s->own_port == own_port && s->peer_port == peer_port &&
        strcmp(s->own, own) == 0 && strcmp(s->peer, peer) == 0)
      return s;
  }
  return NULL;
}

int tr_socket_close(void *context, curl_socket_t fd) {
  size_t i;
  (void)context; /* it may be gone */
  pthread_mutex_lock(&lock);
  for (i = 0; i < socket_count; i++)
    if (sockets[i].fd == fd) {
      sockets[i] = sockets[--socket_count];
      break;
    }
  pthread_mutex_unlock(&lock);
  return close(fd);
}

/* True if an origin gets no connections. */
static bool is_banned(const tr_request *r) {
  bool banned;
  pthread_mutex_lock(&lock);
  banned = broken_count > 0 && offences(origin_of(r), tr_now()) >= MAX_OFFENCES;
  pthread_mutex_unlock(&lock);
  return banned;
}

bool tr_socket_was_broken(uint64_t connection) {
  bool found = false;
  size_t i;
  pthread_mutex_lock(&lock);
  for (i = 0; connection != 0 && i < sizeof broken / sizeof *broken; i++)
    found |= broken[i].number == connection;
  pthread_mutex_unlock(&lock);
  return found;
}

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static struct known_socket *inherited;

/* A thread that the child does not have may have been about to move the table, and may
** hold the lock. */
void tr_socket_forget_all(void) {
  inherited = sockets;
  sockets = NULL;
  socket_count = socket_room = 0;
  pthread_mutex_init(&lock, NULL);
}

void tr_socket_answered(uint64_t connection) {
  size_t i;
  for (i = 0; i < socket_count; i++)
    if (sockets[i].number == connection)
      sockets[i].answered = true;
}

/* True if a descriptor is left for the files of certificates: libcurl would not say why it
** cannot read them. */
static bool leaves_one(const tr_request *r, int fd) {
  int another;
  if (!r->url.secure)
    return true;
  another = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (another >= 0)
    close(another);
  return another >= 0;
}

curl_socket_t tr_socket_open(void *context, curlsocktype purpose,
                             struct curl_sockaddr *address) {
  static uint64_t last; /* number */
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
  if (is_banned(r)) {
    r->fault = TR_ENDLESS;
    return CURL_SOCKET_BAD;
  }
  fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
              address->protocol);
  if (fd < 0 || !leaves_one(r, fd)) {
    r->socket_errno = errno;
    if (fd >= 0)
      close(fd);
    return CURL_SOCKET_BAD;
  }
  /* Sockets to several addresses at once have one number: only one of them stays. */
  if (r->connection == 0 || r->connected)
    r->connection = ++last;
  if (!add_socket(fd, r)) {
    r->no_memory = true;
    close(fd);
    return CURL_SOCKET_BAD;
  }
  r->tried_addresses++;
  if (text[0] != '\0')
    keep_alive(fd);
  return fd;
}

/*
** True if a connection that has served HTTP/1 before has something to read: bytes
** that belong to no request, which would become the response to this one, or its
** end. (HTTP/2 has frames of its own to read. A late TLS session ticket costs no
** more than a new connection.)
*/
static bool is_out_of_step(const tr_handle *h, const struct known_socket *s) {
  const tr_request *r = h->request;
  struct pollfd look = {.fd = s->fd, .events = POLLIN};
  bool proxy_tls =
      r->proxy.url != NULL && strncmp(r->proxy.url, "https:", 6) == 0;
  if (!s->answered)
    return false;
  if (poll(&look, 1, 0) > 0)
    return true;
  if (proxy_tls && r->url.secure) /* libcurl tells of the inner layer only */
    return true;
  return (proxy_tls || r->url.secure) && tr_curl_has_unread(h->easy);
}

int tr_socket_connected(void *context, char *peer, char *own, int peer_port,
                        int own_port) {
  tr_handle *h = context;
  tr_request *r = h->request;
  struct known_socket *s = find_socket(own, own_port, peer, peer_port);
  long opened = 0;
  if (r->connected && r->message != NULL &&
      tr_message_is_single(r->message, r->retries_left)) {
    /* libcurl begins again by itself when a connection that was used before ends */
    r->fault = "the connection was closed before the response; the request may have "
               "been carried out";
    return CURL_PREREQFUNC_ABORT;
  }
  curl_easy_getinfo(h->easy, CURLINFO_NUM_CONNECTS, &opened);
  r->reused = opened == 0;
  if (is_refused(r, peer)) { /* a new connection may find an address that is not */
    r->out_of_step = r->reused && !r->link_local;
    return CURL_PREREQFUNC_ABORT;
  }
  r->from_private |= checks_peer(r) && tr_address_is_private(peer);
  r->connection = s != NULL ? s->number : 0;
  if (s != NULL && is_out_of_step(h, s)) {
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
