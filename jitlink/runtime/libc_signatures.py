"""Signatures of functions of C libraries, for code that was compiled for Windows.

COFF objects do not say what types the functions have that they call. Those of the C standard and of POSIX are
known, and code finds them under their names in any process. Left out is what means something else on Windows:
wide characters have 2 bytes there, and structures such as struct stat another layout; and what no bridge can
serve, setjmp and functions with structures by value.

p is a pointer, Q a size_t, q another integer of 64 bits, l and L a long, which has 32 bits on Windows; see
jitlink.arches.x86_64_conventions for the rest.

Source: ISO C (C17), chapter 7; POSIX.1-2017 for the few others.
"""

from __future__ import annotations

from functools import cache

from jitlink.arches.x86_64_conventions import Signature, signature

NAMES = (
    # string.h, strings.h
    ("ppQ->p", "memcpy memmove strncpy strncat memccpy"),
    ("piQ->p", "memset memchr"),
    ("ppQ->i", "memcmp strncmp strncasecmp bcmp"),
    ("pp->p", "strcpy strcat strstr strpbrk strtok stpcpy strcasestr"),
    ("pp->i", "strcmp strcoll strcasecmp rename"),
    ("pi->p", "strchr strrchr index rindex"),
    ("p->Q", "strlen"),
    ("pQ->Q", "strnlen"),
    ("pp->Q", "strspn strcspn"),
    ("ppQ->Q", "strxfrm"),
    ("p->p", "strdup getenv"),
    ("pQ->p", "strndup realloc getcwd"),
    ("i->p", "strerror"),
    ("ppp->p", "strtok_r"),
    # stdlib.h
    ("Q->p", "malloc valloc"),
    ("QQ->p", "calloc aligned_alloc"),
    ("p->v", "free perror rewind clearerr"),
    ("pQQ->i", "posix_memalign"),
    ("->v", "abort tzset __stack_chk_fail"),
    ("i->v", "exit _exit _Exit quick_exit"),
    ("->i", "rand getchar getpid getppid sched_yield"),
    ("I->v", "srand"),
    ("I->I", "sleep alarm"),
    (
        "i->i",
        "abs putchar isalnum isalpha isblank iscntrl isdigit isgraph islower isprint ispunct "
        "isspace isupper isxdigit tolower toupper close dup isatty fsync raise",
    ),
    ("l->l", "labs"),
    ("q->q", "llabs"),
    ("p->i", "atoi system puts remove fclose fflush feof ferror fgetc getc fileno unlink rmdir chdir"),
    ("p->l", "atol ftell"),
    ("p->q", "atoll ftello"),
    ("p->d", "atof"),
    ("pp->d", "strtod"),
    ("pp->f", "strtof"),
    ("ppi->l", "strtol"),
    ("ppi->L", "strtoul"),
    ("ppi->q", "strtoll"),
    ("ppi->Q", "strtoull"),
    ("ppi->i", "setenv"),
    # stdio.h
    ("pp->p", "fopen"),
    ("ppp->p", "freopen"),
    ("pQQp->Q", "fread fwrite"),
    ("pip->p", "fgets"),
    ("pp->i", "fputs"),
    ("ip->i", "fputc putc ungetc"),
    ("pli->i", "fseek"),
    ("pqi->i", "fseeko"),
    ("pp->v", "setbuf"),
    ("ppiQ->i", "setvbuf"),
    ("->p", "tmpfile __errno_location"),
    # unistd.h
    ("ipQ->q", "read write"),
    ("iqi->q", "lseek"),
    ("ii->i", "dup2 kill"),
    ("pi->i", "access"),
    # math.h
    (
        "d->d",
        "acos asin atan cos sin tan acosh asinh atanh cosh sinh tanh exp exp2 expm1 log log10 "
        "log1p log2 logb cbrt fabs sqrt erf erfc lgamma tgamma ceil floor nearbyint rint round "
        "trunc",
    ),
    (
        "f->f",
        "acosf asinf atanf cosf sinf tanf acoshf asinhf atanhf coshf sinhf tanhf expf exp2f "
        "expm1f logf log10f log1pf log2f logbf cbrtf fabsf sqrtf erff erfcf lgammaf tgammaf "
        "ceilf floorf nearbyintf rintf roundf truncf",
    ),
    ("dd->d", "atan2 pow fmod hypot remainder copysign nextafter fdim fmax fmin drem"),
    ("ff->f", "atan2f powf fmodf hypotf remainderf copysignf nextafterf fdimf fmaxf fminf"),
    ("ddd->d", "fma"),
    ("fff->f", "fmaf"),
    ("di->d", "ldexp scalbn"),
    ("fi->f", "ldexpf scalbnf"),
    ("dl->d", "scalbln"),
    ("fl->f", "scalblnf"),
    ("dp->d", "frexp modf"),
    ("fp->f", "frexpf modff"),
    ("ddp->d", "remquo"),
    ("ffp->f", "remquof"),
    ("p->d", "nan"),
    ("p->f", "nanf"),
    ("d->i", "ilogb finite"),
    ("f->i", "ilogbf finitef"),
    ("d->l", "lrint lround"),
    ("f->l", "lrintf lroundf"),
    ("d->q", "llrint llround"),
    ("f->q", "llrintf llroundf"),
    # time.h
    ("p->q", "time"),
    ("->l", "clock"),
    ("qq->d", "difftime"),
    # what compilers call by themselves
    ("pQ->v", "bzero"),
)
"""Signatures, and the functions that have each."""

RENAMED = {
    "_errno": "__errno_location",
    "_strdup": "strdup",
    "_stricmp": "strcasecmp",
    "_strnicmp": "strncasecmp",
    "stricmp": "strcasecmp",
    "strnicmp": "strncasecmp",
    "_copysign": "copysign",
    "_hypot": "hypot",
    "_hypotf": "hypotf",
    "_finite": "finite",
    "_logb": "logb",
    "_nextafter": "nextafter",
    "_scalb": "scalbln",
    "_getpid": "getpid",
    "_fileno": "fileno",
    "_isatty": "isatty",
    "_unlink": "unlink",
    "_close": "close",
    "_dup": "dup",
    "_dup2": "dup2",
    "_access": "access",
    "_getcwd": "getcwd",
    "_chdir": "chdir",
    "_rmdir": "rmdir",
    "_fseeki64": "fseeko",
    "_ftelli64": "ftello",
    "_time64": "time",
    "_difftime64": "difftime",
}
"""Names that Microsoft's C library has for functions of POSIX or of the C standard."""


@cache
def signatures() -> dict[str, Signature]:
    """The signature of each function, by name."""
    return {name: signature(text) for text, names in NAMES for name in names.split()}
