/*
** A host that compiles an actor's package to machine code and runs it in its own process.
** The code is derived once: later spawns take it from the cache, other processes from the
** disk cache. WebAssembly's sandbox stays: wasm2c checks every access to memory.
**
**   cc -rdynamic compile.c $(pkg-config --cflags --libs theaterref) \
**     -Wl,--whole-archive -lwasm-rt-impl -Wl,--no-whole-archive -lm -o compile
**   ./compile manifest.toml folder
**
** It needs wasm2c and its runtime, libwasm-rt-impl.a (both in Debian's wabt), and a C
** compiler. The runtime is in the host, where actors' libraries find it. 'folder' is for the
** disk cache.
*/
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <theaterref.h>
#include <time.h>
#include <unistd.h>

void wasm_rt_init(void); /* of the runtime */

static bool fail(tr_error *error, tr_error_kind kind, const char *message) {
  *error = (tr_error){.kind = kind};
  snprintf(error->message, sizeof error->message, "%s", message);
  return false;
}

/* Run a command in a folder. False with the error. */
static bool run(const char *folder, const char *command, tr_error *error) {
  char line[1024];
  snprintf(line, sizeof line, "cd '%s' && %s", folder, command);
  return system(line) == 0 || fail(error, TR_IO, command);
}

/* tr_derive_work: a package becomes a shared library. */
static tr_blob *compile(void *context, tr_blob *package, tr_error *error) {
  char folder[] = "/tmp/compile-XXXXXX", path[64];
  tr_blob *library = NULL;
  (void)context;
  if (mkdtemp(folder) == NULL) {
    fail(error, TR_IO, "cannot make a temporary folder");
    return NULL;
  }
  snprintf(path, sizeof path, "%s/actor.wasm", folder);
  if (tr_file_write(path, tr_blob_data(package), tr_blob_size(package), false, error) &&
      run(folder, "wasm2c actor.wasm -n actor -o actor.c", error) &&
      run(folder, "cc -shared -fPIC -O2 actor.c -o actor.so", error)) {
    snprintf(path, sizeof path, "%s/actor.so", folder);
    library = tr_file_read(path, TR_FILE_MAX_BYTES, error);
  }
  snprintf(path, sizeof path, "rm -r %s", folder);
  if (system(path) != 0)
    fprintf(stderr, "compile: cannot remove %s\n", folder);
  return library;
}

/* Everything but the package that the code depends on. */
static bool write_recipe(char *recipe, size_t size) {
  FILE *pipe = popen("echo wasm2c $(wasm2c --version) cc $(cc -dumpfullversion) "
                     "$(cc -dumpmachine) -O2", "r");
  bool ok = pipe != NULL && fgets(recipe, (int)size, pipe) != NULL;
  if (pipe != NULL)
    ok = pclose(pipe) == 0 && ok;
  recipe[strcspn(recipe, "\n")] = '\0';
  return ok;
}

/* Load a library from memory: no other process can change it on the way. */
static void *load(tr_blob *library) {
  char path[64];
  void *loaded = NULL;
  int fd = memfd_create("actor", MFD_CLOEXEC);
  if (fd < 0)
    return NULL;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (write(fd, tr_blob_data(library), tr_blob_size(library)) ==
      (ssize_t)tr_blob_size(library))
    loaded = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  close(fd);
  return loaded;
}

/* Call the actor's 'answer'. False: the library is none of an actor. */
static bool call_answer(void *library, unsigned *answer) {
  char instance[4096] = {0}; /* more than an actor without memory needs */
  void (*init)(void), (*instantiate)(void *);
  unsigned (*call)(void *);
  *(void **)&init = dlsym(library, "Z_actor_init_module");
  *(void **)&instantiate = dlsym(library, "Z_actor_instantiate");
  *(void **)&call = dlsym(library, "Z_actorZ_answer");
  if (init == NULL || instantiate == NULL || call == NULL)
    return false;
  init();
  instantiate(instance);
  *answer = call(instance);
  return true;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Spawn an actor: plan it, get its code and call it. False with the error. */
static bool spawn(tr_host *host, tr_cache *cache, const char *manifest, const char *recipe,
                  tr_error *error) {
  double started = now();
  unsigned answer = 0;
  bool ok = false;
  tr_plan *plan = tr_host_plan(host, manifest, NULL, error);
  tr_blob *code = plan == NULL ? NULL
                               : tr_derive(cache, tr_plan_package(plan), recipe, 60, compile,
                                           NULL, error);
  if (code != NULL) {
    void *library = load(code);
    ok = library != NULL && call_answer(library, &answer);
    if (library != NULL)
      dlclose(library);
    if (!ok)
      fail(error, TR_CORRUPT, "the code is not an actor's");
    else
      printf("%s answers %u after %.2f ms\n", tr_plan_name(plan), answer, now() - started);
  }
  tr_blob_release(code);
  tr_plan_free(plan);
  return ok;
}

int main(int argc, char **argv) {
  tr_host_options options = TR_HOST_OPTIONS;
  tr_cache_options cache_options = TR_CACHE_OPTIONS;
  tr_error error = {.message = "cannot run wasm2c and cc"};
  char recipe[256];
  tr_cache *cache = NULL;
  tr_host *host = NULL;
  bool ok = false;
  if (argc != 3) {
    fprintf(stderr, "usage: compile MANIFEST FOLDER\n");
    return 2;
  }
  cache_options.disk = argv[2];
  wasm_rt_init();
  options.cache = "packages";
  if (write_recipe(recipe, sizeof recipe))
    cache = tr_cache_open("packages", &cache_options, &error);
  if (cache != NULL)
    host = tr_host_new(&options, &error);
  if (host != NULL)
    ok = spawn(host, cache, argv[1], recipe, &error) &&
         spawn(host, cache, argv[1], recipe, &error);
  if (!ok)
    fprintf(stderr, "compile: %s\n", error.message);
  tr_host_free(host);
  tr_cache_release(cache);
  return ok ? 0 : 1;
}
