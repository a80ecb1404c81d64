/* SPDX-License-Identifier: Apache-2.0 */
/* An interrupt line of the guest's IOAPIC, raised as an edge through an eventfd (KVM_IRQFD). */
#ifndef SARDINE_VMM_IRQ_H
#define SARDINE_VMM_IRQ_H

#include <stdint.h>
#include <unistd.h>

/* fd is an eventfd that KVM turns into an edge on the gsi; tests use a plain eventfd. */
struct irq_line {
	int fd;
	uint32_t gsi;
};

/* Raise the line once. Context: any thread; does not block (the eventfd is non-blocking). */
static inline void irq_raise(const struct irq_line *line)
{
	uint64_t one = 1;

	if (write(line->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so an edge is pending anyway. */
	}
}

#endif
