/* The prompt, and what it shares with the rest of the command. */
#ifndef LMP_PROMPT_H
#define LMP_PROMPT_H
#include "mplua.h"

/* Reads, runs and prints until the end of stdin.  Empties the stack. */
void lmp_prompt(lua_State *L);

/* lua_pcall with a traceback in the message, which Ctrl-C ends with an error. */
int lmp_call(lua_State *L, int nargs, int nresults);

/* "who: message" on stderr; `who` may be NULL, and so may the message of an error that
 * is no string. */
void lmp_complain(const char *who, const char *message);

#endif
