#!/usr/bin/python3 -I
"""The init of a guest that is saved when it has imported what a service needs, and answers a line of its
console, or its argument: writes 0xa0 to the boot timer before it waits, 0x60 when the answer is out, and
powers off."""

import asyncio
import ctypes
import http.server
import json
import mmap
import sys
import tty
import urllib.request

ctypes.CDLL(None).iopl(3)
# What Python has no word for, as a function of the byte: mov eax, edi; out 0x80, al; ret.
code = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\x89\xf8\xe6\x80\xc3")
mark = ctypes.CFUNCTYPE(None, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

# Without the terminal's echo.
tty.setraw(0)
mark(0xA0)
# What is typed while Linux boots is lost.
numbers = json.loads(sys.argv[1] if sys.argv[1:] else sys.stdin.readline())
print(json.dumps({"sum": sum(numbers)}), end="\r\n", flush=True)
mark(0x60)
# LINUX_REBOOT_CMD_POWER_OFF
ctypes.CDLL(None).reboot(0x4321FEDC)
