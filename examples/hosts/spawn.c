/*
** A host in C: plans the spawn of a manifest's actor and runs its package.
**
**   cc spawn.c $(pkg-config --cflags --libs theaterref) -o spawn
**   ./spawn manifest.toml [policy.lua] ['{"state": "that overrides"}']
*/
#include <stdio.h>
#include <stdlib.h>
#include <theaterref.h>
#include <unistd.h>

/* This is where a real host calls its WebAssembly engine. */
static int run(const tr_blob *package) {
  char path[] = "/tmp/spawn-XXXXXX", command[128];
  int fd = mkstemp(path), status = 1;
  if (fd < 0 || write(fd, tr_blob_data(package), tr_blob_size(package)) !=
                    (ssize_t)tr_blob_size(package)) {
    perror("spawn");
  } else {
    snprintf(command, sizeof command, "wasm-interp --run-all-exports %s", path);
    status = system(command) == 0 ? 0 : 1;
  }
  if (fd >= 0) {
    close(fd);
    unlink(path);
  }
  return status;
}

int main(int argc, char **argv) {
  tr_host_options options = TR_HOST_OPTIONS;
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error error;
  tr_host *host;
  tr_plan *plan = NULL;
  int status = 1;
  if (argc < 2) {
    fprintf(stderr, "usage: spawn MANIFEST [POLICY] [STATE]\n");
    return 2;
  }
  options.policy = argc > 2 ? argv[2] : NULL;
  if (argc > 3)
    call.initial_state = argv[3];
  host = tr_host_new(&options, &error);
  if (host != NULL)
    plan = tr_host_plan(host, argv[1], &call, &error);
  if (plan != NULL) {
    printf("%s from %s\n", tr_plan_name(plan), tr_plan_package_reference(plan));
    fflush(stdout);
    status = run(tr_plan_package(plan));
  } else {
    fprintf(stderr, "spawn: %s\n", error.message);
  }
  tr_plan_free(plan);
  tr_host_free(host);
  return status;
}
