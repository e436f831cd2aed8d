"""An image: code linked for an address of your choice, with nothing mapped.

For firmware, for another process, for an emulator, or to look at. Here the image is run all the same:
its bytes are put at their address in an emulated processor if unicorn is installed
(pip install "jitlink[emulator]"), so that no byte of it touches the real one.
"""

import importlib.util

import jitlink
from jitlink.inspect import link_map

IR = b"""
target triple = "x86_64-unknown-linux-gnu"
@step = global i64 3
define i64 @next(i64 %x) {
  %step = load i64, ptr @step
  %sum = add i64 %x, %step
  ret i64 %sum
}
"""
BASE, STACK, RETURN = 0x10000000, 0x20000000, 0x30000000

image = jitlink.link(IR, base=BASE)
print("\n".join(link_map(image)))

if importlib.util.find_spec("unicorn"):
    import unicorn
    from unicorn import x86_const as x86

    processor = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    processor.mem_map(BASE, image.size)
    processor.mem_write(BASE, image.to_bytes())
    processor.mem_map(STACK, 0x1000)
    processor.mem_write(STACK + 0x800, RETURN.to_bytes(8, "little"))
    processor.reg_write(x86.UC_X86_REG_RSP, STACK + 0x800)
    processor.reg_write(x86.UC_X86_REG_RDI, 39)
    processor.emu_start(image.address_of("next"), RETURN)
    print(f"next(39) = {processor.reg_read(x86.UC_X86_REG_RAX)}")
