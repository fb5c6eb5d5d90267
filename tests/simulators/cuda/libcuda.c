/* A stand-in for libcuda.so.1: virtual memory management over memfds, on a machine without a GPU.
 *
 * It does what the driver was measured to do, as far as zhcache calls it: descriptors are memory
 * and nothing but memory, PROT_READ is enforced on copies with INVALID_VALUE, an importer may ask
 * for READWRITE and gets it, memory lives as long as any mapping, handle or descriptor does. What
 * CUDA leaves to the caller (unmap before free, equal sizes, a context to synchronise) is refused
 * here, so that a wrong sequence of calls fails. Kernels cannot run: a reader that writes there by
 * plain stores gets SIGSEGV, as a kernel would kill the context.
 *
 *   STAND_IN_GPUS  devices, 2 unless said        STAND_IN_VRAM  MiB an allocation may have, 1024 unless said
 *   STAND_IN_FAIL  NAME:COUNT, that call fails from its COUNT-th time on
 *   STAND_IN_STATUS  with this status instead of UNKNOWN
 *
 * CUDA_VISIBLE_DEVICES is obeyed for UUIDs and indices. Not thread-safe: tests use one thread.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_CONTEXT = 201, UNKNOWN = 999,
};
enum { MAX_DEVICES = 16, MAX_ENTRIES = 4096 };
static const size_t GRANULE = 2u << 20;

typedef uint64_t Pointer;
typedef struct { int type, id; } Location;
typedef struct {
    int type, handles;
    Location location;
    void *windows;
    unsigned char flags[8];
} Form;
typedef struct { Location location; int flags; } Access;

typedef struct { int fd, device, uses; size_t size; } Memory;       /* uses: handles and mappings */
typedef struct { Pointer base; size_t size; Memory *mapped; int prot; } Range;

static int started, depth, seen_count, seen[MAX_DEVICES];
static int current[64];
static Range ranges[MAX_ENTRIES];
static int handles, mappings, reserved, synchronised;

static int number(const char *name, int otherwise) {
    const char *told = getenv(name);
    return told && *told ? atoi(told) : otherwise;
}

/* Whether the call is to fail now, as STAND_IN_FAIL says. */
static int fails(const char *name) {
    static int calls;
    const char *told = getenv("STAND_IN_FAIL");
    size_t length = strlen(name);
    if (!told || strncmp(told, name, length) || told[length] != ':') return 0;
    return ++calls >= atoi(told + length + 1);
}
#define CALL(name) \
    do { \
        if (!started) return NOT_INITIALIZED; \
        if (fails(name)) return number("STAND_IN_STATUS", UNKNOWN); \
    } while (0)

static void spell(int device, char *uuid) { sprintf(uuid, "GPU-5741ed10-0000-4000-8000-%012x", device); }

int cuInit(unsigned flags) {
    if (fails("cuInit")) return UNKNOWN;
    int there = number("STAND_IN_GPUS", 2);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    seen_count = 0;
    if (!visible) {
        while (seen_count < there) { seen[seen_count] = seen_count; seen_count++; }
    } else {
        char list[1024], *rest = list, *part, uuid[64];
        snprintf(list, sizeof list, "%s", visible);
        while ((part = strsep(&rest, ",")) && seen_count < MAX_DEVICES) {
            int found = -1;
            for (int device = 0; device < there; device++) {
                char index[16];
                spell(device, uuid);
                sprintf(index, "%d", device);
                if (!strcmp(part, uuid) || !strcmp(part, index)) found = device;
            }
            if (found < 0) break;
            seen[seen_count++] = found;
        }
    }
    if (!seen_count) return NO_DEVICE;
    started = 1;
    return flags ? INVALID_VALUE : OK;
}

int cuDeviceGetCount(int *count) { CALL("cuDeviceGetCount"); *count = seen_count; return OK; }

int cuDeviceGet(int *device, int ordinal) {
    CALL("cuDeviceGet");
    if (ordinal < 0 || ordinal >= seen_count) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}

int cuDeviceGetUuid_v2(unsigned char *bytes, int device) {
    CALL("cuDeviceGetUuid_v2");
    if (device < 0 || device >= seen_count) return INVALID_DEVICE;
    memcpy(bytes, "\x57\x41\xed\x10\x00\x00\x40\x00\x80\x00\x00\x00\x00\x00\x00", 15);
    bytes[15] = (unsigned char)seen[device];
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    CALL("cuDevicePrimaryCtxRetain");
    if (device < 0 || device >= seen_count) return INVALID_DEVICE;
    *context = (void *)(uintptr_t)(device + 1);
    return OK;
}

int cuCtxPushCurrent_v2(void *context) {
    CALL("cuCtxPushCurrent_v2");
    if (!context || depth >= 64) return INVALID_CONTEXT;
    current[depth++] = (int)(uintptr_t)context;
    return OK;
}

int cuCtxPopCurrent_v2(void **context) {
    CALL("cuCtxPopCurrent_v2");
    if (!depth) return INVALID_CONTEXT;
    *context = (void *)(uintptr_t)current[--depth];
    return OK;
}

int cuCtxSynchronize(void) {
    CALL("cuCtxSynchronize");
    if (!depth) return INVALID_CONTEXT;
    synchronised = 1;
    return OK;
}

int cuMemGetAllocationGranularity(size_t *granule, const Form *form, int option) {
    CALL("cuMemGetAllocationGranularity");
    if (form->type != 1 || form->location.type != 1 || option > 1) return INVALID_VALUE;
    *granule = GRANULE;
    return OK;
}

/* The limit is on one allocation: nobody counts what all processes hold together. */
int cuMemCreate(void **handle, size_t size, const Form *form, uint64_t flags) {
    CALL("cuMemCreate");
    if (flags || !size || size % GRANULE || form->type != 1 || form->location.type != 1) return INVALID_VALUE;
    if (form->location.id < 0 || form->location.id >= seen_count) return INVALID_DEVICE;
    if (size > (size_t)number("STAND_IN_VRAM", 1024) << 20) return OUT_OF_MEMORY;
    char name[32];
    sprintf(name, "stand-in-gpu-%d", seen[form->location.id]);
    Memory *memory = calloc(1, sizeof *memory);
    /* Without CLOEXEC, as a driver might: the caller has to see to it. */
    *memory = (Memory){memfd_create(name, 0), seen[form->location.id], 1, size};
    if (memory->fd < 0 || ftruncate(memory->fd, (off_t)size)) return OUT_OF_MEMORY;
    /* Fresh memory holds whatever the last process left. */
    void *dirt = mmap(NULL, size, PROT_WRITE, MAP_SHARED, memory->fd, 0);
    memset(dirt, 0xA5, size);
    munmap(dirt, size);
    if (form->handles != 1) { close(memory->fd); memory->fd = -1; }
    *handle = memory;
    handles++;
    return OK;
}

static void let_go(Memory *memory) {
    if (--memory->uses == 0) { close(memory->fd); free(memory); }
}

int cuMemRelease(Memory *memory) {
    CALL("cuMemRelease");
    handles--;
    let_go(memory);
    return OK;
}

int cuMemExportToShareableHandle(int *fd, Memory *memory, int type, uint64_t flags) {
    CALL("cuMemExportToShareableHandle");
    if (type != 1 || flags || memory->fd < 0) return INVALID_VALUE;
    *fd = dup(memory->fd);
    return *fd < 0 ? UNKNOWN : OK;
}

int cuMemImportFromShareableHandle(void **handle, void *shareable, int type) {
    CALL("cuMemImportFromShareableHandle");
    int fd = (int)(intptr_t)shareable, device;
    char link[64], target[128] = "";
    struct stat told;
    sprintf(link, "/proc/self/fd/%d", fd);
    if (type != 1 || readlink(link, target, sizeof target - 1) < 0) return INVALID_VALUE;
    if (sscanf(target, "/memfd:stand-in-gpu-%d", &device) != 1 || fstat(fd, &told)) return INVALID_VALUE;
    int is_seen = 0;
    for (int i = 0; i < seen_count; i++) is_seen |= seen[i] == device;
    if (!is_seen) return INVALID_DEVICE;
    Memory *memory = calloc(1, sizeof *memory);
    *memory = (Memory){fcntl(fd, F_DUPFD_CLOEXEC, 0), device, 1, (size_t)told.st_size};
    *handle = memory;
    handles++;
    return OK;
}

static Range *range_at(Pointer base) {
    for (int i = 0; i < MAX_ENTRIES; i++)
        if (ranges[i].size && ranges[i].base == base) return &ranges[i];
    return NULL;
}

int cuMemAddressReserve(Pointer *base, size_t size, size_t alignment, Pointer wish, uint64_t flags) {
    CALL("cuMemAddressReserve");
    if (!size || size % GRANULE || alignment % GRANULE || flags || wish) return INVALID_VALUE;
    void *area = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) return OUT_OF_MEMORY;
    for (int i = 0; i < MAX_ENTRIES; i++)
        if (!ranges[i].size) {
            ranges[i] = (Range){(Pointer)(uintptr_t)area, size, NULL, PROT_NONE};
            *base = ranges[i].base;
            reserved++;
            return OK;
        }
    munmap(area, size);
    return OUT_OF_MEMORY;
}

int cuMemAddressFree(Pointer base, size_t size) {
    CALL("cuMemAddressFree");
    Range *range = range_at(base);
    if (!range || range->size != size || range->mapped) return INVALID_VALUE;
    munmap((void *)(uintptr_t)base, size);
    range->size = 0;
    reserved--;
    return OK;
}

int cuMemMap(Pointer base, size_t size, size_t offset, Memory *memory, uint64_t flags) {
    CALL("cuMemMap");
    Range *range = range_at(base);
    if (!range || range->mapped || offset || flags || range->size != size || memory->size != size) return INVALID_VALUE;
    range->mapped = memory;
    memory->uses++;
    mappings++;
    return OK;
}

int cuMemSetAccess(Pointer base, size_t size, const Access *access, size_t count) {
    CALL("cuMemSetAccess");
    Range *range = range_at(base);
    if (!range || !range->mapped || range->size != size || count != 1) return INVALID_VALUE;
    if (access->location.type != 1 || access->location.id < 0 || access->location.id >= seen_count) return INVALID_VALUE;
    if (seen[access->location.id] != range->mapped->device) return INVALID_DEVICE;
    if (access->flags != 1 && access->flags != 3) return INVALID_VALUE;
    range->prot = access->flags == 3 ? PROT_READ | PROT_WRITE : PROT_READ;
    void *area = mmap((void *)(uintptr_t)base, size, range->prot, MAP_SHARED | MAP_FIXED, range->mapped->fd, 0);
    return area == MAP_FAILED ? UNKNOWN : OK;
}

int cuMemUnmap(Pointer base, size_t size) {
    CALL("cuMemUnmap");
    Range *range = range_at(base);
    if (!range || !range->mapped || range->size != size) return INVALID_VALUE;
    mmap((void *)(uintptr_t)base, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    let_go(range->mapped);
    range->mapped = NULL;
    range->prot = PROT_NONE;
    mappings--;
    return OK;
}

static int may(Pointer at, size_t size, int prot) {
    for (int i = 0; i < MAX_ENTRIES; i++)
        if (ranges[i].size && at >= ranges[i].base && at + size <= ranges[i].base + ranges[i].size)
            return (ranges[i].prot & prot) == prot;
    return 0;
}

int cuMemcpyHtoD_v2(Pointer to, const void *from, size_t size) {
    CALL("cuMemcpyHtoD_v2");
    if (!depth) return INVALID_CONTEXT;
    if (!may(to, size, PROT_WRITE)) return INVALID_VALUE;
    memcpy((void *)(uintptr_t)to, from, size);
    return OK;
}

int cuMemcpyDtoH_v2(void *to, Pointer from, size_t size) {
    CALL("cuMemcpyDtoH_v2");
    if (!depth) return INVALID_CONTEXT;
    if (!may(from, size, PROT_READ)) return INVALID_VALUE;
    memcpy(to, (void *)(uintptr_t)from, size);
    return OK;
}

int cuMemGetAddressRange_v2(Pointer *base, size_t *size, Pointer at) {
    CALL("cuMemGetAddressRange_v2");
    if (!may(at, 1, PROT_READ)) return INVALID_VALUE;
    for (int i = 0; i < MAX_ENTRIES; i++)
        if (ranges[i].size && at >= ranges[i].base && at < ranges[i].base + ranges[i].size) {
            *base = ranges[i].base;
            *size = ranges[i].size;
        }
    return OK;
}

/* For the tests: handles, mappings and reservations of this process, and whether it synchronised. */
void stand_in_counts(int counts[4]) {
    counts[0] = handles;
    counts[1] = mappings;
    counts[2] = reserved;
    counts[3] = synchronised;
    synchronised = 0;
}

int cuGetErrorName(int status, const char **name) {
    static const struct { int status; const char *name; } known[] = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"}, {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"}, {UNKNOWN, "CUDA_ERROR_UNKNOWN"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) { *name = known[i].name; return OK; }
    *name = NULL;
    return INVALID_VALUE;
}
