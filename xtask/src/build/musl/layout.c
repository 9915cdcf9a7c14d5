/* What brisk and Rust's standard library hand to a C library, as its headers have it: printed, a name
   and a number on each line. Both libraries' must be equal where objects of the one are linked with the
   other.

   Known to be different, and without effect on a little-endian machine: msg_iovlen, msg_controllen and
   cmsg_len are 8 bytes in glibc and 4 bytes with 4 of padding in musl, so offsets and sizes of whole
   structures are compared. Left out is what is only ever used here or is a hint: O_ACCMODE, which has
   O_PATH in it in musl, and SOMAXCONN. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define NUMBER(name) printf("%s %lld\n", #name, (long long)(name));
#define SIZE(type) printf("sizeof(%s) %zu\n", #type, sizeof(type));
#define FIELD(type, field) \
	printf("%s.%s %zu\n", #type, #field, offsetof(type, field));

int main(void)
{
	SIZE(struct stat)
	FIELD(struct stat, st_dev) FIELD(struct stat, st_ino) FIELD(struct stat, st_nlink)
	FIELD(struct stat, st_mode) FIELD(struct stat, st_uid) FIELD(struct stat, st_gid)
	FIELD(struct stat, st_rdev) FIELD(struct stat, st_size) FIELD(struct stat, st_blksize)
	FIELD(struct stat, st_blocks) FIELD(struct stat, st_atim) FIELD(struct stat, st_mtim)
	FIELD(struct stat, st_ctim)
	SIZE(struct statfs)
	FIELD(struct statfs, f_type) FIELD(struct statfs, f_bsize) FIELD(struct statfs, f_bfree)
	FIELD(struct statfs, f_bavail) FIELD(struct statfs, f_flags)
	SIZE(struct statvfs)
	FIELD(struct statvfs, f_bsize) FIELD(struct statvfs, f_flag)
	SIZE(struct dirent)
	FIELD(struct dirent, d_ino) FIELD(struct dirent, d_reclen) FIELD(struct dirent, d_type)
	FIELD(struct dirent, d_name)
	SIZE(struct sigaction)
	FIELD(struct sigaction, sa_handler) FIELD(struct sigaction, sa_mask)
	FIELD(struct sigaction, sa_flags)
	SIZE(sigset_t) SIZE(siginfo_t) SIZE(stack_t)
	FIELD(siginfo_t, si_signo) FIELD(siginfo_t, si_code) FIELD(siginfo_t, si_errno)
	FIELD(siginfo_t, si_addr) FIELD(siginfo_t, si_pid) FIELD(siginfo_t, si_fd)
	FIELD(siginfo_t, si_call_addr) FIELD(siginfo_t, si_syscall)
	FIELD(stack_t, ss_sp) FIELD(stack_t, ss_flags) FIELD(stack_t, ss_size)
	FIELD(ucontext_t, uc_mcontext) FIELD(mcontext_t, gregs)
	SIZE(struct termios)
	FIELD(struct termios, c_iflag) FIELD(struct termios, c_oflag) FIELD(struct termios, c_cflag)
	FIELD(struct termios, c_lflag) FIELD(struct termios, c_cc)
	SIZE(struct winsize) FIELD(struct winsize, ws_row) FIELD(struct winsize, ws_col)
	SIZE(struct pollfd) FIELD(struct pollfd, events) FIELD(struct pollfd, revents)
	SIZE(struct iovec) FIELD(struct iovec, iov_base) FIELD(struct iovec, iov_len)
	SIZE(struct timespec) SIZE(struct timeval) SIZE(struct itimerspec) SIZE(time_t)
	SIZE(cpu_set_t) SIZE(struct rlimit) SIZE(struct flock) SIZE(struct utsname)
	FIELD(struct flock, l_type) FIELD(struct flock, l_whence) FIELD(struct flock, l_start)
	FIELD(struct flock, l_len) FIELD(struct flock, l_pid)
	SIZE(struct msghdr) SIZE(struct cmsghdr)
	FIELD(struct msghdr, msg_name) FIELD(struct msghdr, msg_namelen)
	FIELD(struct msghdr, msg_iov) FIELD(struct msghdr, msg_iovlen)
	FIELD(struct msghdr, msg_control) FIELD(struct msghdr, msg_controllen)
	FIELD(struct msghdr, msg_flags)
	FIELD(struct cmsghdr, cmsg_len) FIELD(struct cmsghdr, cmsg_level)
	FIELD(struct cmsghdr, cmsg_type)
	SIZE(struct sockaddr_un) SIZE(struct sockaddr_storage) SIZE(socklen_t)
	FIELD(struct sockaddr_un, sun_path)
	SIZE(struct inotify_event)
	FIELD(struct inotify_event, mask) FIELD(struct inotify_event, len)
	FIELD(struct inotify_event, name)
	SIZE(pthread_t) SIZE(pthread_attr_t) SIZE(pthread_mutex_t) SIZE(pthread_cond_t)
	SIZE(pthread_key_t) SIZE(pthread_once_t)
	SIZE(off_t) SIZE(mode_t) SIZE(dev_t) SIZE(ino_t) SIZE(pid_t) SIZE(uid_t) SIZE(nfds_t)
	SIZE(clockid_t) SIZE(size_t) SIZE(wchar_t)

	NUMBER(O_RDONLY) NUMBER(O_WRONLY) NUMBER(O_RDWR) NUMBER(O_CREAT) NUMBER(O_EXCL)
	NUMBER(O_TRUNC) NUMBER(O_APPEND) NUMBER(O_NONBLOCK) NUMBER(O_DIRECT) NUMBER(O_NOFOLLOW)
	NUMBER(O_CLOEXEC) NUMBER(O_PATH) NUMBER(O_DIRECTORY) NUMBER(O_DSYNC) NUMBER(O_SYNC)
	NUMBER(O_NOCTTY) NUMBER(O_ASYNC) NUMBER(O_TMPFILE)
	NUMBER(AT_FDCWD) NUMBER(AT_EMPTY_PATH) NUMBER(AT_SYMLINK_NOFOLLOW)
	NUMBER(F_GETFD) NUMBER(F_SETFD) NUMBER(F_GETFL) NUMBER(F_SETFL) NUMBER(F_DUPFD_CLOEXEC)
	NUMBER(F_SETOWN) NUMBER(F_SETSIG) NUMBER(F_OFD_SETLK) NUMBER(F_OFD_GETLK)
	NUMBER(F_OFD_SETLKW) NUMBER(F_RDLCK) NUMBER(F_WRLCK) NUMBER(F_UNLCK)
	NUMBER(F_ADD_SEALS) NUMBER(F_SEAL_SHRINK) NUMBER(FD_CLOEXEC)
	NUMBER(LOCK_SH) NUMBER(LOCK_EX) NUMBER(LOCK_NB) NUMBER(LOCK_UN)
	NUMBER(FALLOC_FL_KEEP_SIZE) NUMBER(FALLOC_FL_PUNCH_HOLE)
	NUMBER(SEEK_SET) NUMBER(SEEK_CUR) NUMBER(SEEK_END) NUMBER(SEEK_DATA) NUMBER(SEEK_HOLE)
	NUMBER(S_IFMT) NUMBER(S_IFREG) NUMBER(S_IFBLK) NUMBER(S_IFCHR) NUMBER(S_IFDIR)
	NUMBER(S_IFIFO) NUMBER(S_IFLNK) NUMBER(S_IFSOCK)
	NUMBER(MAP_SHARED) NUMBER(MAP_PRIVATE) NUMBER(MAP_FIXED) NUMBER(MAP_ANONYMOUS)
	NUMBER(MAP_NORESERVE) NUMBER(MAP_POPULATE) NUMBER(MAP_HUGETLB) NUMBER(MAP_SYNC)
	NUMBER(MAP_SHARED_VALIDATE) NUMBER(MAP_FIXED_NOREPLACE) NUMBER(MAP_HUGE_SHIFT)
	NUMBER(PROT_NONE) NUMBER(PROT_READ) NUMBER(PROT_WRITE) NUMBER(PROT_EXEC)
	NUMBER(MADV_DONTNEED) NUMBER(MADV_HUGEPAGE) NUMBER(MADV_NOHUGEPAGE)
	NUMBER(MADV_DONTDUMP) NUMBER(MADV_REMOVE) NUMBER(MADV_SEQUENTIAL) NUMBER(MADV_WILLNEED)
	NUMBER(MADV_FREE) NUMBER(MREMAP_MAYMOVE) NUMBER(MREMAP_FIXED) NUMBER(MFD_CLOEXEC)
	NUMBER(MFD_HUGETLB) NUMBER(MS_SYNC) NUMBER(MS_ASYNC)
	NUMBER(SA_SIGINFO) NUMBER(SA_RESTART) NUMBER(SA_ONSTACK) NUMBER(SA_NODEFER)
	NUMBER(SA_RESETHAND) NUMBER(SS_DISABLE) NUMBER(SIG_BLOCK) NUMBER(SIG_UNBLOCK)
	NUMBER(SIG_SETMASK)
	NUMBER(SIGHUP) NUMBER(SIGINT) NUMBER(SIGQUIT) NUMBER(SIGILL) NUMBER(SIGABRT)
	NUMBER(SIGBUS) NUMBER(SIGFPE) NUMBER(SIGKILL) NUMBER(SIGUSR1) NUMBER(SIGUSR2)
	NUMBER(SIGSEGV) NUMBER(SIGPIPE) NUMBER(SIGALRM) NUMBER(SIGTERM) NUMBER(SIGCHLD)
	NUMBER(SIGCONT) NUMBER(SIGSTOP) NUMBER(SIGTSTP) NUMBER(SIGTTIN) NUMBER(SIGTTOU)
	NUMBER(SIGXCPU) NUMBER(SIGXFSZ) NUMBER(SIGWINCH) NUMBER(SIGIO) NUMBER(SIGSYS)
	NUMBER(BUS_ADRALN) NUMBER(BUS_ADRERR) NUMBER(SI_USER) NUMBER(SI_KERNEL) NUMBER(SI_TKILL)
	NUMBER(SIGEV_SIGNAL) NUMBER(SIGEV_THREAD_ID)
	NUMBER(POLLIN) NUMBER(POLLOUT) NUMBER(POLLERR) NUMBER(POLLHUP) NUMBER(POLLNVAL)
	NUMBER(TCGETS) NUMBER(TCSETS) NUMBER(TIOCGWINSZ) NUMBER(TIOCGPGRP) NUMBER(FIONREAD)
	NUMBER(FIONBIO) NUMBER(FIOCLEX)
	NUMBER(ICANON) NUMBER(ECHO) NUMBER(ISIG) NUMBER(IEXTEN) NUMBER(IXON) NUMBER(ICRNL)
	NUMBER(OPOST) NUMBER(BRKINT) NUMBER(INPCK) NUMBER(ISTRIP) NUMBER(CS8) NUMBER(VMIN)
	NUMBER(VTIME) NUMBER(TCSANOW) NUMBER(NCCS)
	NUMBER(STDIN_FILENO) NUMBER(STDOUT_FILENO) NUMBER(STDERR_FILENO)
	NUMBER(_SC_PAGESIZE) NUMBER(_SC_NPROCESSORS_ONLN) NUMBER(_SC_NPROCESSORS_CONF)
	NUMBER(_SC_IOV_MAX) NUMBER(_SC_ARG_MAX) NUMBER(_SC_CLK_TCK) NUMBER(_SC_OPEN_MAX)
	NUMBER(_SC_THREAD_STACK_MIN) NUMBER(_SC_GETPW_R_SIZE_MAX)
	NUMBER(_SC_HOST_NAME_MAX) NUMBER(_SC_PHYS_PAGES)
	NUMBER(CLOCK_REALTIME) NUMBER(CLOCK_MONOTONIC) NUMBER(CLOCK_BOOTTIME)
	NUMBER(CLOCK_THREAD_CPUTIME_ID) NUMBER(TIMER_ABSTIME)
	NUMBER(AF_UNIX) NUMBER(SOCK_STREAM) NUMBER(SOCK_DGRAM) NUMBER(SOCK_CLOEXEC)
	NUMBER(SOCK_NONBLOCK) NUMBER(SOCK_SEQPACKET) NUMBER(SOL_SOCKET) NUMBER(SCM_RIGHTS)
	NUMBER(SO_PASSCRED) NUMBER(SO_PEERCRED) NUMBER(SO_RCVTIMEO) NUMBER(SO_SNDTIMEO)
	NUMBER(SO_ERROR) NUMBER(SO_TYPE) NUMBER(MSG_NOSIGNAL) NUMBER(MSG_DONTWAIT)
	NUMBER(MSG_CMSG_CLOEXEC) NUMBER(MSG_PEEK) NUMBER(MSG_TRUNC) NUMBER(SHUT_RD)
	NUMBER(SHUT_WR) NUMBER(SHUT_RDWR)
	NUMBER(IN_MODIFY) NUMBER(IN_CLOEXEC) NUMBER(IN_NONBLOCK) NUMBER(IN_ATTRIB)
	NUMBER(IN_DELETE_SELF) NUMBER(IN_MOVE_SELF)
	NUMBER(EFD_CLOEXEC) NUMBER(EFD_NONBLOCK) NUMBER(TFD_CLOEXEC) NUMBER(TFD_NONBLOCK)
	NUMBER(GRND_NONBLOCK) NUMBER(RLIMIT_NOFILE) NUMBER(RLIMIT_AS) NUMBER(RLIMIT_MEMLOCK)
	NUMBER(RLIMIT_FSIZE) NUMBER(RLIMIT_STACK) NUMBER(PR_SET_NO_NEW_PRIVS)
	NUMBER(PR_SET_DUMPABLE) NUMBER(PR_SET_NAME) NUMBER(PR_SET_SECCOMP)
	NUMBER(PR_SET_PDEATHSIG) NUMBER(PR_SET_TIMERSLACK)
	NUMBER(PTHREAD_CREATE_JOINABLE) NUMBER(PTHREAD_CREATE_DETACHED)
	NUMBER(PTHREAD_MUTEX_NORMAL) NUMBER(PTHREAD_MUTEX_RECURSIVE)
	NUMBER(WNOHANG) NUMBER(WUNTRACED) NUMBER(R_OK) NUMBER(W_OK) NUMBER(X_OK) NUMBER(F_OK)
	NUMBER(EPERM) NUMBER(ENOENT) NUMBER(EINTR) NUMBER(EIO) NUMBER(ENXIO) NUMBER(E2BIG)
	NUMBER(EBADF) NUMBER(EAGAIN) NUMBER(ENOMEM) NUMBER(EACCES) NUMBER(EFAULT) NUMBER(EBUSY)
	NUMBER(EEXIST) NUMBER(ENODEV) NUMBER(ENOTDIR) NUMBER(EISDIR) NUMBER(EINVAL)
	NUMBER(ENFILE) NUMBER(EMFILE) NUMBER(ENOTTY) NUMBER(ETXTBSY) NUMBER(EFBIG)
	NUMBER(ENOSPC) NUMBER(ESPIPE) NUMBER(EROFS) NUMBER(EMLINK) NUMBER(EPIPE)
	NUMBER(ERANGE) NUMBER(EDEADLK) NUMBER(ENAMETOOLONG) NUMBER(ENOSYS) NUMBER(ENOTEMPTY)
	NUMBER(ELOOP) NUMBER(EOVERFLOW) NUMBER(EOPNOTSUPP) NUMBER(EADDRINUSE)
	NUMBER(ECONNREFUSED) NUMBER(ECONNRESET) NUMBER(ENOTCONN) NUMBER(ETIMEDOUT)
	NUMBER(EINPROGRESS) NUMBER(ESTALE) NUMBER(EDQUOT) NUMBER(ECANCELED) NUMBER(EHWPOISON)
	NUMBER(SYS_close_range) NUMBER(SYS_io_uring_setup) NUMBER(SYS_seccomp) NUMBER(SYS_statx)
	NUMBER(SYS_preadv2) NUMBER(SYS_futex) NUMBER(SYS_getrandom) NUMBER(SYS_userfaultfd)
	return 0;
}
