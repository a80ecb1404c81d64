/* SPDX-License-Identifier: Apache-2.0 */
/* The ELF note that makes a VMM enter at the 32-bit PVH entry (Xen's XEN_ELFNOTE_PHYS32_ENTRY). */
#include "image.h"
	.section .note.Xen, "a", @note
	.balign 4
	.long 4			/* name */
	.long 4			/* value */
	.long 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.balign 4
	.long IMAGE_BASE + IMAGE_PVH_ENTRY
	.section .note.GNU-stack, "", @progbits
