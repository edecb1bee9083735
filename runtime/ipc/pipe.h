/* What a pipe is in shared memory: the objects that the messages in it name.
 *
 * The bytes of a message go through a socket, where the collector cannot look.  So
 * a message that names shared objects leaves a ticket here first, and carries only
 * the ticket's claim.  Whoever receives it registers the objects for itself and
 * then takes the ticket away.  Both ends, in every process, refer to the pipe.
 */
#ifndef MP_IPC_PIPE_H
#define MP_IPC_PIPE_H
#include "../shm/family.h"

/* What a message carries of a ticket. */
struct mp_claim {
  mp_ref ticket;
  uint32_t n; /* objects */
  uint64_t number;
};

/* Says how pipes are traced and destroyed; once a process. */
void mp_pipe_setup(void);

/* Makes a pipe with two references, one for each end.  No lock held.  0 or ENOMEM. */
int mp_pipe_make(struct mp_member *me, mp_ref *out, uint32_t entries[2]);

/* Leaves a ticket for n objects, which something of the caller's keeps alive.  No
 * lock held.  0 or ENOMEM. */
int mp_pipe_leave(mp_ref pipe, const mp_ref *refs, uint32_t n, struct mp_member *me,
                  struct mp_claim *out);

/* Redeems a ticket: fills refs and entries (room for claim->n each) with references
 * registered for `me`, and takes it away.  0; ESTALE: this pipe has no such ticket;
 * ENOMEM: nothing has changed, it can be tried again. */
int mp_pipe_redeem(mp_ref pipe, const struct mp_claim *claim, struct mp_member *me,
                   mp_ref *refs, uint32_t *entries);

/* Takes a ticket away whose message was not sent. */
void mp_pipe_withdraw(mp_ref pipe, const struct mp_claim *claim, struct mp_member *me);

#endif
