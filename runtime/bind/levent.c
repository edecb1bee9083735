/*** mp.Event.
 * @module event */
#include "lsync.h"

static struct lsync *check(lua_State *L) { return lmp_check(L, 1, MP_KIND_EVENT); }
static struct mp_event *event(const struct lsync *s) { return mp_at(s->h.obj); }
static bool is_set(const struct lsync *s) { return mp_event_turns(event(s)) & 1; }

/*** A flag that processes can wait for.
 * @type Event */

/*** Sets the flag, and wakes all who wait.
 * @function Event:set
 * @python `multiprocessing.Event.set` */
static int event_set(lua_State *L) {
  mp_event_set(event(check(L)));
  return 0;
}

/*** Takes the flag back.
 * @function Event:clear
 * @python `multiprocessing.Event.clear` */
static int event_clear(lua_State *L) {
  mp_event_clear(event(check(L)));
  return 0;
}

/*** Whether the flag is set.
 * @function Event:is_set
 * @treturn boolean */
static int event_is_set(lua_State *L) {
  lua_pushboolean(L, is_set(check(L)));
  return 1;
}

/*** Waits until the flag is set.  Who waited when it was set returns true, even when it was cleared
 * at once.
 * @function Event:wait
 * @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
 * @treturn boolean whether it was set
 * @python `multiprocessing.Event.wait` */
static int event_wait(lua_State *L) {
  struct lsync *s = check(L);
  mp_time deadline = lmp_deadline(L, 2);
  uint32_t turns = mp_event_turns(event(s));
  int e;
  for (;;) {
    mp_label(s->h.me, s->h.obj, MP_WAIT_EVENT);
    e = mp_event_wait(event(s), turns, deadline, &s->look);
    mp_unlabel(s->h.me);
    if (e != EINTR) break;
    lsync_pause(L, s);
  }
  lua_pushboolean(L, e == 0);
  return 1;
}

/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function Event:close
 * @raise while a wait needs it */
static int event_close(lua_State *L) { return lsync_close(L, MP_KIND_EVENT); }

static int event_tostring(lua_State *L) {
  struct lsync *s;
  char id[LSYNC_ID_SIZE];
  if (!lsync_show_closed(L, MP_KIND_EVENT, &s))
    lua_pushfstring(L, "mp.Event: %s (%s)", lsync_id(s, id), is_set(s) ? "set" : "clear");
  return 1;
}

/*** Makes an event, which is not set.
 * @function mp.Event
 * @treturn Event
 * @python `multiprocessing.Event`
 * @usage local ready = mp.Event()
 * mp.Process(function() ready:set() end):start()
 * print(ready:wait(10)) --> true */
static int event_new(lua_State *L) {
  lmp_make(L, MP_KIND_EVENT, sizeof(struct mp_event), sizeof(struct lsync), NULL, NULL);
  return 1;
}

static const luaL_Reg methods[] = {
    {"set", event_set},   {"clear", event_clear}, {"is_set", event_is_set},
    {"wait", event_wait}, {"close", event_close}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {
    {"__gc", lmp_gc}, {"__close", event_close}, {"__tostring", event_tostring}, {NULL, NULL}};

void lsync_open_event(lua_State *L) {
  lsync_type(L, MP_KIND_EVENT, "Event", 0, methods, metamethods, NULL);
  lua_pushcfunction(L, event_new);
  lua_setfield(L, -2, "Event");
}
