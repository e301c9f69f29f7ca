/*
** A helper may hang, print without an end, or leave children behind, and the program may
** ignore SIGCHLD or reap every child itself. So nothing here waits without a deadline, and
** a status that somebody else took is no failure: the output tells.
*/
#include "helper_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "future.h"
#include "thread.h"

extern char **environ;

enum { MAX_OUTPUT = 1 << 20, CHUNK = 4096 };

/* Seconds between two looks at a program that has closed its output. */
static const double PAUSE = 0.005;

typedef struct helper {
  char *program, *argument, *input;
  size_t len, written;
  double deadline;
  tr_future *future; /* retained */
  int to, from; /* this end of the pipes; -1: closed */
  int lifeline; /* open as long as this process lives; see `guard` */
  pid_t pid, guard; /* of the guard 0: there is none */
  tr_buffer output;
} helper;

static void close_end(int *fd) {
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

static void free_helper(helper *h) {
  close_end(&h->to);
  close_end(&h->from);
  close_end(&h->lifeline);
  tr_future_release(h->future);
  tr_buffer_free(&h->output);
  if (h->input != NULL)
    explicit_bzero(h->input, h->len);
  free(h->program);
  free(h->argument);
  free(h->input);
  free(h);
}

/* ---------------------------------------------------------------- starting */

/* A pipe whose ends are none of the standard descriptors, which may be closed. */
static bool open_pipe(int ends[2]) {
  int pair[2], i;
  if (pipe2(pair, O_CLOEXEC) != 0)
    return false;
  for (i = 0; i < 2; i++)
    ends[i] = fcntl(pair[i], F_DUPFD_CLOEXEC, 3);
  close(pair[0]);
  close(pair[1]);
  if (ends[0] >= 0 && ends[1] >= 0)
    return true;
  close_end(&ends[0]);
  close_end(&ends[1]);
  return false;
}

/* Start a program with these ends of pipes, and nothing else that is open, in a process group of
** another, or, if that is 0, of its own. Return an errno, or 0. */
static int spawn(pid_t *pid, pid_t group, char *const arguments[], int in, int out) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  int fault;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_adddup2(&actions, in, 0);
  if (out >= 0)
    posix_spawn_file_actions_adddup2(&actions, out, 1);
  else
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
  posix_spawn_file_actions_addclosefrom_np(&actions, 3); /* the host's own */
#endif
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP |
                                            POSIX_SPAWN_SETSIGMASK |
                                            POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, group);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  fault = posix_spawnp(pid, arguments[0], &actions, &attributes, arguments, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return fault;
}

/* Start the guard of the program: a shell in its process group, which kills that as soon as this
** process ends, by Ctrl-C or in any other way. Its pipe ends then. Nothing that this process could
** do at its end works for SIGKILL, and PR_SET_PDEATHSIG is about the thread that started a program.
** Without a guard, such as where there is no shell, a program that hangs outlives this process. */
static void start_guard(helper *h) {
  static char shell[] = "/bin/sh", option[] = "-c", script[] = "read -r x; kill -KILL 0";
  char *arguments[] = {shell, option, script, NULL};
  int ends[2] = {-1, -1};
  if (!open_pipe(ends))
    return;
  if (spawn(&h->guard, h->pid, arguments, ends[0], -1) != 0)
    h->guard = 0;
  close(ends[0]);
  h->lifeline = ends[1];
}

/* Open the pipes and start the program. Return an errno, or 0. */
static int start(helper *h) {
  char *arguments[] = {h->program, h->argument, NULL};
  int in[2] = {-1, -1}, out[2] = {-1, -1}, fault;
  if (!open_pipe(in))
    return errno;
  if (!open_pipe(out)) {
    fault = errno;
    close_end(&in[0]);
    close_end(&in[1]);
    return fault;
  }
  fault = spawn(&h->pid, 0, arguments, in[0], out[1]);
  if (fault == 0)
    start_guard(h);
  close(in[0]);
  close(out[1]);
  h->to = in[1];
  h->from = out[0];
  fcntl(h->to, F_SETFL, O_NONBLOCK);
  fcntl(h->from, F_SETFL, O_NONBLOCK);
  return fault;
}

/* ----------------------------------------------------------------- talking */

/* Write some of the input. SIGPIPE is blocked in this thread, and ends with it. */
static void write_some(helper *h) {
  ssize_t n = write(h->to, h->input + h->written, h->len - h->written);
  if (n > 0)
    h->written += (size_t)n;
  if (h->written == h->len || (n < 0 && errno != EAGAIN && errno != EINTR))
    close_end(&h->to); /* a helper need not read what it is told */
}

/* Read some of the output. False if there is too much. */
static bool read_some(helper *h) {
  char chunk[CHUNK];
  ssize_t n = read(h->from, chunk, sizeof chunk);
  bool ok = true;
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
    close_end(&h->from);
  if (n > 0)
    ok = h->output.len + (size_t)n <= MAX_OUTPUT &&
         tr_buffer_append(&h->output, chunk, (size_t)n);
  explicit_bzero(chunk, sizeof chunk);
  return ok;
}

/* Talk to the program until it closes its output. False with the error. */
static bool talk(helper *h, tr_error *error) {
  while (h->from >= 0) {
    struct pollfd fds[2] = {{h->from, POLLIN, 0}, {h->to, POLLOUT, 0}};
    double left = h->deadline - tr_now();
    if (left <= 0) {
      tr_error_set(error, TR_TIMEOUT,
                   "the credential helper %s did not answer in time", h->program);
      return false;
    }
    if (poll(fds, h->to >= 0 ? 2 : 1, (int)(left * 1000) + 1) < 0 &&
        errno != EINTR)
      break;
    if (h->to >= 0 && fds[1].revents != 0)
      write_some(h);
    if (fds[0].revents != 0 && !read_some(h)) {
      tr_error_set(error, TR_IO, "the credential helper %s printed too much",
                   h->program);
      return false;
    }
  }
  return true;
}

enum { BY_SIGNAL = 1000 }; /* added to the number of the signal that ended a program */

/* Wait for the end of a process until the deadline. Return its status, or BY_SIGNAL and more;
** 0 if somebody else took that; or -1: it still runs. */
static int await_end(pid_t pid, double deadline) {
  struct timespec pause = {0, (long)(PAUSE * 1e9)};
  for (;;) {
    int status;
    pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended == pid)
      return WIFEXITED(status) ? WEXITSTATUS(status) : BY_SIGNAL + WTERMSIG(status);
    if (ended < 0 && errno != EINTR)
      return 0;
    if (tr_now() >= deadline)
      return -1;
    nanosleep(&pause, NULL);
  }
}

/* End the guard, before its pipe does that: what the program left behind goes on. */
static void end_guard(helper *h) {
  /* Its number is its own as long as it runs. */
  if (h->guard != 0 && waitpid(h->guard, NULL, WNOHANG) == 0) {
    kill(h->guard, SIGKILL);
    await_end(h->guard, tr_now() + 1);
  }
  h->guard = 0;
}

/* True if the program says, as all of them do, that it has nothing for the server. */
static bool has_none(const helper *h) {
  static const char says[] = "credentials not found";
  return h->output.len > 0 &&
         memmem(h->output.data, h->output.len, says, sizeof says - 1) != NULL;
}

static bool run_to_end(helper *h, tr_error *error) {
  bool ok = talk(h, error);
  int status = await_end(h->pid, ok ? h->deadline : tr_now());
  if (status < 0) { /* its number is still its own: nobody has reaped it */
    kill(-h->pid, SIGKILL);
    await_end(h->pid, tr_now() + 1);
  }
  end_guard(h);
  if (!ok || status == 0)
    return ok;
  if (status < 0)
    tr_error_set(error, TR_TIMEOUT, "the credential helper %s did not end in time",
                 h->program);
  else if (has_none(h))
    tr_error_set(error, TR_NOT_FOUND, "the credential helper %s has no credentials",
                 h->program);
  else
    tr_error_set(error, TR_IO, "the credential helper %s %s %d", h->program,
                 status >= BY_SIGNAL ? "was killed by signal" : "failed with status",
                 status % BY_SIGNAL);
  return false;
}

static void *run(void *context) {
  helper *h = context;
  tr_error error;
  tr_blob *blob = NULL;
  if (run_to_end(h, &error)) {
    blob = tr_buffer_to_blob(&h->output);
    if (blob == NULL)
      tr_error_nomem(&error);
  }
  if (blob != NULL)
    tr_future_complete(h->future, blob);
  else
    tr_future_fail(h->future, &error);
  tr_blob_release(blob);
  free_helper(h);
  return NULL;
}

/* ------------------------------------------------------------------- public */

static helper *new_helper(const char *program, const char *argument,
                          const char *input, size_t len, double seconds,
                          tr_future *future) {
  helper *h = calloc(1, sizeof *h);
  if (h == NULL)
    return NULL;
  h->to = h->from = h->lifeline = -1;
  h->deadline = tr_now() + seconds;
  h->future = tr_future_retain(future);
  h->program = strdup(program);
  h->argument = strdup(argument);
  h->input = malloc(len + 1);
  h->len = len;
  if (h->input != NULL)
    memcpy(h->input, input, len);
  if (h->program != NULL && h->argument != NULL && h->input != NULL)
    return h;
  free_helper(h);
  return NULL;
}

bool tr_helper_run(const char *program, const char *argument,
                   const char *input, size_t len, double seconds,
                   tr_future *future, tr_error *error) {
  helper *h = new_helper(program, argument, input, len, seconds, future);
  pthread_t thread;
  int fault;
  error = tr_error_or_ignored(error);
  if (h == NULL) {
    tr_error_nomem(error);
    return false;
  }
  fault = start(h);
  if (fault != 0) {
    tr_error_errno(error, fault, "Failed to run the credential helper", program);
    free_helper(h);
    return false;
  }
  if (tr_thread_create(&thread, "theaterref-help", run, h)) {
    pthread_detach(thread);
    return true;
  }
  kill(-h->pid, SIGKILL);
  await_end(h->pid, tr_now() + 1);
  end_guard(h);
  tr_error_set(error, TR_IO, "no thread can be started for the credential helper");
  free_helper(h);
  return false;
}
