// How jemalloc, which the program is linked with, treats freed memory; MALLOC_CONF in the environment goes
// before it. Every micro-batch allocates activations of other sizes than the one before, and the first touch
// of a page costs several times what writing it does: so freed memory is never given back (decay), large
// blocks are no exception (oversize_threshold), and all threads have one heap, in which what one has freed is
// there for the others (narenas). Any free block may serve any smaller request (lg_extent_max_active_fit): by
// default one of more than 64 times the size may not, new memory is taken instead, and as none is given back
// a run over rows of uneven lengths grows without end.
extern "C" {
extern const char* malloc_conf;
const char* malloc_conf = "narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0,"
                          "lg_extent_max_active_fit:40";
}
