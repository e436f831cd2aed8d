"""The smallest JIT there is: six bytes of machine code become a function that Python calls.

A link graph is built by hand: a section, a block of content in it, a symbol at its start. The bytes are
x86-64 for "return 48".
"""

import jitlink
from jitlink import Protection

graph = jitlink.new_graph("answer", target="x86_64")
text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
block = graph.add_block(text, bytes.fromhex("b830000000c3"))  # mov $48, %eax; ret
graph.add_symbol("answer", block)

with jitlink.load(graph) as library:
    answer = library.function("answer")
    print(f"answer() = {answer()}")
