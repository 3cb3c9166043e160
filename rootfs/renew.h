/* Becoming another VM: with the identity that a fork of a template gets first, and where a snapshot
 * of this VM goes on. */
#ifndef CLEARVM_ROOTFS_RENEW_H_
#define CLEARVM_ROOTFS_RENEW_H_

#include "native/protocol/agent.h"

/* Opens what the others need. Before the container has a /dev of its own. */
void renew_prepare(void);

/* Seeds the kernel's random numbers, so that nothing that was drawn before tells of what comes, and
 * sets the time. Ends in FAIL. Wipes the identity. */
void renew_identity(struct clearvm_identity* identity);

/*
 * The point at which a snapshot may be taken: has nothing but init run, on any processor, and tells
 * the VMM. Where another VM goes on from there, it gets its identity, its host name and its files
 * before anything else runs. Returns whether this is another VM.
 */
int renew_at_point(void);

#endif
