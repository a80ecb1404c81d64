/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM objects of one VM. Interface: Linux Documentation/virt/kvm/api.rst. */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "vmm/layout.h"

#define KVM_API_STABLE 12

/* What we cannot do without; all of it is in every kernel since 4.13. */
static const struct {
	int cap;
	const char *name;
} required[] = {
	{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
	{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
	{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
	{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
	{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
	{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

static int open_system(struct kvm *kvm, struct errmsg *err)
{
	int version;

	kvm->system_fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	if (kvm->system_fd < 0 && errno == ENOENT)
		return errmsg_set(err, -ENOTSUP,
				  "%s: no such device; load the kvm_intel or kvm_amd module, or enable "
				  "virtualisation in the firmware",
				  KVM_DEVICE);
	if (kvm->system_fd < 0 && (errno == EACCES || errno == EPERM))
		return errmsg_set(err, -ENOTSUP, "%s: permission denied; add this user to the kvm group",
				  KVM_DEVICE);
	if (kvm->system_fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
		return errmsg_set(err, -errno, "%s: %s; raise the limit (ulimit -n), or free some",
				  KVM_DEVICE, strerror(errno));
	if (kvm->system_fd < 0)
		return errmsg_set(err, -ENOTSUP, "%s: %s; this host cannot run VMs", KVM_DEVICE,
				  strerror(errno));
	version = ioctl(kvm->system_fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_STABLE)
		return errmsg_set(err, -ENOTSUP,
				  "%s: API version %d where %d is needed; this is not a usable KVM",
				  KVM_DEVICE, version, KVM_API_STABLE);
	for (size_t i = 0; i < ARRAY_SIZE(required); i++)
		if (ioctl(kvm->system_fd, KVM_CHECK_EXTENSION, required[i].cap) <= 0)
			return errmsg_set(err, -ENOTSUP, "%s: lacks %s; a kernel with it is needed",
					  KVM_DEVICE, required[i].name);
	return 0;
}

/* Where an Intel CPU without unrestricted guest mode keeps its task state and identity map; other CPUs ignore
 * them. */
static int set_intel_pages(struct kvm *kvm)
{
	uint64_t identity = LAYOUT_KVM_IDENTITY_MAP;

	if (ioctl(kvm->system_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
	    ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return -errno;
	if (ioctl(kvm->system_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
	    ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_KVM_TSS) < 0)
		return -errno;
	return 0;
}

/* Guests get no performance counters (CPUID says so too); a KVM that can, then emulates none of their MSRs. */
static int disable_pmu(struct kvm *kvm)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_PMU_CAPABILITY, .args = {KVM_PMU_CAP_DISABLE}};
	int can = ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PMU_CAPABILITY);

	if (can <= 0 || !(can & KVM_PMU_CAP_DISABLE))
		return 0;
	return ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) < 0 ? -errno : 0;
}

static int create_vm(struct kvm *kvm)
{
	int r;

	do {
		kvm->vm_fd = ioctl(kvm->system_fd, KVM_CREATE_VM, 0);
	} while (kvm->vm_fd < 0 && errno == EINTR);
	if (kvm->vm_fd < 0)
		return -errno;
	r = set_intel_pages(kvm);
	return r < 0 ? r : disable_pmu(kvm);
}

static int cannot_create(int r, struct errmsg *err)
{
	return errmsg_set(err, r == -EPERM || r == -EOPNOTSUPP || r == -EBUSY ? -ENOTSUP : r,
			  "%s: cannot create a VM: %s; see the kernel's log", KVM_DEVICE, strerror(-r));
}

int kvm_open(struct kvm *kvm, struct errmsg *err)
{
	int r, bytes;

	*kvm = (struct kvm){.system_fd = -1, .vm_fd = -1};
	r = open_system(kvm, err);
	if (r < 0)
		return r;
	bytes = ioctl(kvm->system_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (bytes <= 0)
		return errmsg_set(err, -ENOTSUP, "%s: no size for kvm_run; this is not a usable KVM",
				  KVM_DEVICE);
	kvm->run_bytes = (size_t)bytes;
	r = create_vm(kvm);
	return r < 0 ? cannot_create(r, err) : 0;
}

int kvm_create_irqchip(struct kvm *kvm, struct errmsg *err)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

	if (ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return cannot_create(-errno, err);
	/* Guests find no PIT in the ACPI tables; it serves those that are told acpi=off or probe for it. */
	if (ioctl(kvm->system_fd, KVM_CHECK_EXTENSION, KVM_CAP_PIT2) > 0 &&
	    ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return cannot_create(-errno, err);
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	close_fd_p(&kvm->vm_fd);
	close_fd_p(&kvm->system_fd);
	*kvm = (struct kvm){.system_fd = -1, .vm_fd = -1};
}

int kvm_set_memory(struct kvm *kvm, const struct guest_memory *mem, struct errmsg *err)
{
	kvm->mem = mem;
	for (size_t i = 0; i < guest_memory_region_count(mem); i++) {
		const struct guest_region *region = guest_memory_region(mem, i);
		struct kvm_userspace_memory_region slot = {
			.slot = (uint32_t)i,
			.guest_phys_addr = region->gpa.v,
			.memory_size = region->bytes,
			.userspace_addr = (uint64_t)(uintptr_t)region->hva,
		};

		if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return errmsg_set(err, -errno,
					  "--mem: KVM refuses %" PRIu64 " MiB of guest memory at %#" PRIx64
					  ": %s; ask for less",
					  region->bytes >> 20, region->gpa.v, strerror(errno));
	}
	return 0;
}

static int attach_line(const struct kvm *kvm, const struct irq_line *line)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)line->fd, .gsi = line->gsi};

	return ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int kvm_irq_line(struct kvm *kvm, uint32_t gsi, struct irq_line *ret)
{
	auto_fd fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct irq_line line = {.fd = fd, .gsi = gsi};
	int r;

	if (fd < 0)
		return -errno;
	if (kvm->line_count == KVM_LINES_MAX)
		return -ENOSPC;
	r = attach_line(kvm, &line);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	kvm->lines[kvm->line_count++] = line;
	*ret = line;
	return 0;
}

static int attach_doorbell(const struct kvm *kvm, const struct kvm_doorbell *bell)
{
	struct kvm_ioeventfd request = {
		.datamatch = bell->value,
		.addr = bell->gpa.v,
		.len = 4,
		.fd = bell->fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	return ioctl(kvm->vm_fd, KVM_IOEVENTFD, &request) < 0 ? -errno : 0;
}

int kvm_ioeventfd(struct kvm *kvm, gpa_t gpa, uint32_t value, int fd)
{
	struct kvm_doorbell bell = {.gpa = gpa, .value = value, .fd = fd};
	int r;

	if (kvm->doorbell_count == KVM_DOORBELLS_MAX)
		return -ENOSPC;
	r = attach_doorbell(kvm, &bell);
	if (r == 0)
		kvm->doorbells[kvm->doorbell_count++] = bell;
	return r;
}

int kvm_renew(struct kvm *kvm, struct errmsg *err)
{
	int r;

	close_fd_p(&kvm->vm_fd);
	kvm->vm_fd = -1;
	r = create_vm(kvm);
	if (r < 0)
		return errmsg_set(err, r, "%s: cannot create the VM again: %s", KVM_DEVICE, strerror(-r));
	r = kvm_set_memory(kvm, kvm->mem, err);
	if (r == 0)
		r = kvm_create_irqchip(kvm, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < kvm->line_count; i++)
		r = attach_line(kvm, &kvm->lines[i]);
	for (unsigned i = 0; r == 0 && i < kvm->doorbell_count; i++)
		r = attach_doorbell(kvm, &kvm->doorbells[i]);
	if (r < 0)
		return errmsg_set(err, r, "%s: cannot attach the devices again: %s", KVM_DEVICE,
				  strerror(-r));
	return 0;
}

unsigned kvm_vcpus_max(const struct kvm *kvm)
{
	int max = ioctl(kvm->system_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

	return max > 0 ? (unsigned)max : 4; /* 4: what api.rst says to assume */
}

/* kvm_renew(): the next boot gets a new VM. */
DEFINE_SYSCALLS(kvm_syscalls, SYSCALL_IF(ioctl, 1, KVM_CHECK_EXTENSION), SYSCALL_IF(ioctl, 1, KVM_CREATE_VM),
		SYSCALL_IF(ioctl, 1, KVM_SET_IDENTITY_MAP_ADDR), SYSCALL_IF(ioctl, 1, KVM_SET_TSS_ADDR),
		SYSCALL_IF(ioctl, 1, KVM_ENABLE_CAP), SYSCALL_IF(ioctl, 1, KVM_CREATE_IRQCHIP),
		SYSCALL_IF(ioctl, 1, KVM_CREATE_PIT2), SYSCALL_IF(ioctl, 1, KVM_SET_USER_MEMORY_REGION),
		SYSCALL_IF(ioctl, 1, KVM_IRQFD), SYSCALL_IF(ioctl, 1, KVM_IOEVENTFD));
