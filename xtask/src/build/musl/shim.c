/* What the objects of a target that is made for glibc want, and musl does not have. */

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
