/* The process's own: its heap, its environment, and children. For the soak test. */
#include <dlfcn.h>
#include <lauxlib.h>
#include <lua.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* heap() -> bytes that malloc has given out, after everything free went back to the system */
static int heap(lua_State *L) {
  struct mallinfo2 info;
  malloc_trim(0);
  info = mallinfo2();
  lua_pushinteger(L, (lua_Integer)(info.uordblks + info.hblkhd));
  return 1;
}

/* shutdown(path): tr_shutdown of the module at that path, which is loaded */
static int shut_down(lua_State *L) {
  void *module = dlopen(luaL_checkstring(L, 1), RTLD_NOW | RTLD_NOLOAD);
  void *symbol = module != NULL ? dlsym(module, "tr_shutdown") : NULL;
  if (symbol == NULL)
    return luaL_error(L, "tr_shutdown is not in %s", lua_tostring(L, 1));
  (*(void (**)(void))&symbol)();
  dlclose(module);
  return 0;
}

/* unset(name): forget a variable of the environment */
static int unset(lua_State *L) {
  unsetenv(luaL_checkstring(L, 1));
  return 0;
}

/* pause(seconds) */
static int pause_for(lua_State *L) {
  double seconds = luaL_checknumber(L, 1);
  struct timespec time = {.tv_sec = (time_t)seconds};
  time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
  nanosleep(&time, NULL);
  return 0;
}

/* child(seconds, function) -> true if the function returned in a child of fork(), in time;
** else what became of the child */
static int child(lua_State *L) {
  unsigned seconds = (unsigned)luaL_checkinteger(L, 1);
  int status = 0;
  pid_t pid = fork();
  if (pid < 0)
    return luaL_error(L, "fork failed");
  if (pid == 0) {
    alarm(seconds);
    if (lua_pcall(L, 0, 0, 0) == LUA_OK)
      _exit(0);
    fprintf(stderr, "in a child: %s\n", lua_tostring(L, -1));
    _exit(1);
  }
  while (waitpid(pid, &status, 0) < 0)
    ;
  if (status == 0)
    lua_pushboolean(L, 1);
  else if (WIFSIGNALED(status))
    lua_pushfstring(L, "killed by signal %d", WTERMSIG(status));
  else
    lua_pushfstring(L, "exit %d", WEXITSTATUS(status));
  return 1;
}

__attribute__((visibility("default"))) int luaopen_process(lua_State *L) {
  static const luaL_Reg functions[] = {{"heap", heap},   {"shutdown", shut_down}, {"unset", unset},
                                       {"pause", pause_for}, {"child", child},    {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
