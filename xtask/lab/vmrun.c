/*
 * Mends QEMU's VMRUN (SVM in software; seen in 10.0.2). It delivers the interrupt that a hypervisor injects
 * and leaves its vector in the CPU's exception_index, as if an exception were still to be raised. Where the
 * CPU next comes out of translated code for anything but an interrupt or an intercept, as it does at the
 * end of each of the instruction clock's slices, that is raised: the guest gets the same interrupt once
 * more, with interrupts off or not. In the handler of a timer it then waits for its own lock for ever.
 *
 * Here the CPU comes out of translated code right behind VMRUN, by the function that forgets the vector.
 * Only where QEMU's programs export what that takes, and VMRUN is done by the function of this name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void vmrun(void *env, int aflag, int next_eip_addend);

static vmrun *original;
static void (*come_out)(void *cpu);

static void mended(void *env, int aflag, int next_eip_addend)
{
	static __thread void **current;

	original(env, aflag, next_eip_addend);
	if (!current)
		current = dlsym(RTLD_DEFAULT, "current_cpu");
	come_out(*current);
}

__attribute__((constructor)) static void mend(void)
{
	/* Its first field is the function that translated code calls. */
	vmrun **helper = dlsym(RTLD_DEFAULT, "helper_info_vmrun");
	uintptr_t page = sysconf(_SC_PAGESIZE);

	original = (vmrun *)dlsym(RTLD_DEFAULT, "helper_vmrun");
	come_out = (void (*)(void *))dlsym(RTLD_DEFAULT, "cpu_loop_exit_noexc");
	if (helper && original && *helper == original && come_out &&
	    dlsym(RTLD_DEFAULT, "current_cpu") &&
	    mprotect((void *)((uintptr_t)helper & -page), page, PROT_READ | PROT_WRITE) == 0)
		*helper = mended;
	else
		fputs("lab: this QEMU's VMRUN is not the one that is mended\n", stderr);
}
