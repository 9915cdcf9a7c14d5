/* What the objects of a target that is made for glibc want, and musl does not have. */

#include <stdarg.h>
#include <sys/syscall.h>

long syscall(long number, ...);

/* musl's own makes a second call for each O_CLOEXEC, for kernels before 2.6.23. Under both names, of which
   std uses the second. */
int __wrap_open(const char *path, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	unsigned mode = va_arg(rest, unsigned);
	va_end(rest);
	return syscall(SYS_open, path, flags, mode);
}

int __wrap_open64(const char *path, int flags, ...) __attribute__((alias("__wrap_open")));

/* Asked by libgcc's unwinder, which then goes on as it does with an older glibc. Nothing unwinds: a
   panic aborts. */
int _dl_find_object(void *address, void *result)
{
	(void)address;
	(void)result;
	return -1;
}

/* musl's allocator has one heap for all threads, which is what brisk asks for. */
int mallopt(int parameter, int value)
{
	(void)parameter;
	(void)value;
	return 1;
}
