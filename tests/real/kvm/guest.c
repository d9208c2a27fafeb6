/* A freestanding 32-bit guest that drives a virtio-net-pci function (VIRTIO 1.3, 4.1) by ioeventfd and MSI-X.
 *
 * It asks for the host's hardware address (ARP) again and again: each request is a kick of the tx ring, each reply a
 * call of the rx ring, and between the two the processor halts, so that a notification that is lost hangs it. What it
 * counted is printed to QEMU's debug console, and its verdict is QEMU's exit status.
 *
 * It is loaded by QEMU's -kernel (multiboot). Where a nested KVM runs 32-bit code in its own emulator, protected-mode
 * IRET is not among what that emulates: an interrupt's frame is taken apart by POPF and RET instead.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

enum { ROUNDS = 64, ENTRIES = 64, BUFFERS = 32, BUFFER_BYTES = 2048, HEADER_BYTES = 12, ARP_BYTES = 42 };
enum { RX, TX, QUEUES };
enum { FIRST_VECTOR = 0x40, SPURIOUS_VECTOR = 0xff };
enum { GOOD = 16, BAD = 17 }; /* isa-debug-exit: QEMU ends with twice that and 1 */

__asm__(
    ".section .multiboot,\"a\"\n"
    ".align 4\n"
    ".long 0x1badb002, 0, -0x1badb002\n"
    ".text\n"
    ".globl _start\n"
    "_start: mov $stack_end, %esp\n"
    "call run\n"
    "hang: hlt\n jmp hang\n"
    /* Interrupts count, acknowledge to the local APIC and go back without IRET. */
    "on_rx: incl calls\n jmp done\n"
    "on_tx: incl calls+4\n"
    "done: movl $0, 0xfee000b0\n"
    "on_other: pushl 8(%esp)\n popfl\n ret $8\n"
    ".bss\n .align 16\n .skip 16384\n stack_end:\n"
    ".text\n");

extern void on_rx(void), on_tx(void), on_other(void);
volatile u32 calls[QUEUES];

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline u32 in32(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void fence(void) { __asm__ volatile("lock orl $0, (%%esp)" ::: "memory", "cc"); }

static void say(const char *text)
{
    while (*text)
        out8(0xe9, *text++);
}
static void say_number(const char *name, u32 value)
{
    char digits[11], *at = digits + 10;
    *at = 0;
    do {
        *--at = '0' + value % 10;
        value /= 10;
    } while (value);
    say(name);
    say(at);
}
static void end(u32 status)
{
    say("\n");
    out32(0xf4, status);
    for (;;)
        __asm__ volatile("hlt");
}
static void fail(const char *why)
{
    say("failed: ");
    say(why);
    end(BAD);
}

/* PCI: configuration mechanism 1, bus 0. */
static u32 device;
static u32 pci_read(u32 at)
{
    out32(0xcf8, 0x80000000u | device << 11 | (at & 0xfc));
    return in32(0xcfc) >> 8 * (at & 3);
}
static void pci_write(u32 at, u32 value)
{
    out32(0xcf8, 0x80000000u | device << 11 | (at & 0xfc));
    out32(0xcfc, value);
}
static volatile u8 *bar(u32 number)
{
    u32 low = pci_read(0x10 + 4 * number);
    if (low & 1 || ((low & 4) && pci_read(0x14 + 4 * number)))
        fail("a BAR is not in the lower 4 GiB of memory");
    return (volatile u8 *)(low & ~15u);
}

/* VIRTIO 4.1.4: where the structures are. */
static volatile u8 *common, *notify, *msix_table;
static u32 notify_multiplier, msix_at;
static void find(void)
{
    for (device = 0; device < 32 && pci_read(0) != 0x10411af4; device++)
        ;
    if (device == 32)
        fail("there is no virtio-net-pci function");
    for (u32 at = pci_read(0x34) & 0xff; at; at = pci_read(at + 1) & 0xff) {
        u32 kind = pci_read(at) & 0xff, type = pci_read(at + 3) & 0xff;
        if (kind == 0x11) {
            u32 table = pci_read(at + 4);
            msix_at = at;
            msix_table = bar(table & 7) + (table & ~7u);
        }
        if (kind != 0x09 || (type != 1 && type != 2))
            continue;
        volatile u8 *place = bar(pci_read(at + 4) & 0xff) + pci_read(at + 8);
        if (type == 1)
            common = place;
        else {
            notify = place;
            notify_multiplier = pci_read(at + 16);
        }
    }
    if (!common || !notify || !msix_table)
        fail("a capability is missing");
    pci_write(4, (pci_read(4) & 0xffff) | 6); /* memory space, bus master */
}

/* VIRTIO 4.1.4.3: the common configuration. */
static void put8(u32 at, u8 value) { common[at] = value; }
static void put16(u32 at, u16 value) { *(volatile u16 *)(common + at) = value; }
static void put32(u32 at, u32 value) { *(volatile u32 *)(common + at) = value; }
static u16 get16(u32 at) { return *(volatile u16 *)(common + at); }
static u32 get32(u32 at) { return *(volatile u32 *)(common + at); }

/* VIRTIO 2.7: split rings. */
struct descriptor { u32 address, address_high, length; u16 flags, next; };
struct used_element { u32 id, length; };
static struct queue {
    struct descriptor table[ENTRIES] __attribute__((aligned(16)));
    volatile u16 avail[3 + ENTRIES] __attribute__((aligned(2)));
    volatile struct { u16 flags, index; struct used_element ring[ENTRIES]; u16 event; } used __attribute__((aligned(4)));
    volatile u16 *doorbell;
    u16 seen;
} queues[QUEUES] __attribute__((aligned(4096)));
static u8 received[BUFFERS][BUFFER_BYTES], request[HEADER_BYTES + ARP_BYTES];

static void offer(u32 number, u32 id, void *data, u32 length, u16 flags)
{
    struct queue *queue = &queues[number];
    queue->table[id] = (struct descriptor){(u32)data, 0, length, flags, 0};
    queue->avail[2 + queue->avail[1] % ENTRIES] = id;
    __asm__ volatile("" ::: "memory"); /* x86 keeps the order of stores */
    queue->avail[1]++;
    fence();
    if (!(queue->used.flags & 1))
        *queue->doorbell = number;
}
static void set_up(u32 number)
{
    struct queue *queue = &queues[number];
    put16(22, number);
    put16(24, ENTRIES);
    put16(26, number); /* its entry of the MSI-X table */
    if (get16(26) != number)
        fail("the device has no MSI-X vector left");
    put32(32, (u32)queue->table);
    put32(36, 0);
    put32(40, (u32)queue->avail);
    put32(44, 0);
    put32(48, (u32)&queue->used);
    put32(52, 0);
    queue->doorbell = (volatile u16 *)(notify + get16(30) * notify_multiplier);
    put16(28, 1);
}
static void negotiate(void)
{
    put8(20, 0);
    while (common[20])
        ;
    put8(20, 1);
    put8(20, 3);
    put32(0, 1);
    if (!(get32(4) & 1))
        fail("VERSION_1 is not offered");
    put32(8, 1);
    put32(12, 1);
    put32(8, 0);
    put32(12, 0);
    put8(20, 11);
    if (!(common[20] & 8))
        fail("the features were refused");
    for (u32 number = 0; number < QUEUES; number++)
        set_up(number);
    put8(20, 15);
}

static struct { u16 low, selector, type, high; } gates[256] __attribute__((aligned(8)));
static void gate(u32 vector, void (*handler)(void))
{
    u16 selector;
    __asm__("mov %%cs, %0" : "=r"(selector));
    gates[vector].low = (u32)handler;
    gates[vector].selector = selector;
    gates[vector].type = 0x8e00;
    gates[vector].high = (u32)handler >> 16;
}
static void prepare_interrupts(void)
{
    struct { u16 limit; u32 base; } __attribute__((packed)) idt = {sizeof gates - 1, (u32)gates};
    out8(0x21, 0xff); /* nothing of the old interrupt controllers */
    out8(0xa1, 0xff);
    for (u32 vector = 32; vector < 256; vector++)
        gate(vector, on_other);
    gate(FIRST_VECTOR + RX, on_rx);
    gate(FIRST_VECTOR + TX, on_tx);
    __asm__ volatile("lidt %0" ::"m"(idt));
    *(volatile u32 *)0xfee000f0 = 0x100 | SPURIOUS_VECTOR;
    for (u32 entry = 0; entry < QUEUES; entry++) {
        volatile u32 *row = (volatile u32 *)(msix_table + 16 * entry);
        row[0] = 0xfee00000;
        row[1] = 0;
        row[2] = FIRST_VECTOR + entry;
        row[3] = 0;
    }
    pci_write(msix_at, (pci_read(msix_at) & 0xffff) | pci_read(msix_at + 2) << 16 | 0x80000000u);
}

/* Halt until the device has returned something of a ring; what it returned. */
static struct used_element wait_for(u32 number)
{
    struct queue *queue = &queues[number];
    for (;;) {
        __asm__ volatile("cli");
        if (queue->used.index != queue->seen)
            break;
        __asm__ volatile("sti; hlt" ::: "memory");
    }
    __asm__ volatile("sti" ::: "memory");
    struct used_element found = queue->used.ring[queue->seen % ENTRIES];
    queue->seen++;
    return found;
}

static const u8 HEAD[ARP_BYTES] = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 7, 8, 6, /* Ethernet: to all, from us, ARP */
    0, 1, 8, 0, 6, 4, 0, 1, 0x02, 0, 0, 0, 0, 7, 198, 18, 77, 2, 0, 0, 0, 0, 0, 0, 198, 18, 77, 1};

static int is_answer(const u8 *frame, u32 length)
{
    static const u8 wanted[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 2};
    if (length < HEADER_BYTES + ARP_BYTES)
        return 0;
    for (u32 i = 0; i < sizeof wanted; i++)
        if (frame[HEADER_BYTES + 12 + i] != wanted[i])
            return 0;
    for (u32 i = 0; i < 4; i++) /* its sender is whom we asked for */
        if (frame[HEADER_BYTES + 28 + i] != HEAD[38 + i])
            return 0;
    return 1;
}

void run(void)
{
    u32 answers = 0;
    find();
    prepare_interrupts(); /* before DRIVER_OK: QEMU 7.2 makes its irqfds then, and trusts in them later */
    negotiate();
    for (u32 i = 0; i < ARP_BYTES; i++)
        request[HEADER_BYTES + i] = HEAD[i];
    for (u32 id = 0; id < BUFFERS; id++)
        offer(RX, id, received[id], BUFFER_BYTES, 2);
    for (u32 round = 0; round < ROUNDS; round++) {
        offer(TX, round % ENTRIES, request, sizeof request, 0);
        if (wait_for(TX).id != round % ENTRIES)
            fail("the device returned another tx chain");
        for (int answered = 0; !answered;) {
            struct used_element found = wait_for(RX);
            if (found.id >= BUFFERS)
                fail("the device returned another rx chain");
            answered = is_answer(received[found.id], found.length);
            answers += answered;
            offer(RX, found.id, received[found.id], BUFFER_BYTES, 2);
        }
    }
    say_number("answers=", answers);
    say_number(" rx-calls=", calls[RX]);
    say_number(" tx-calls=", calls[TX]);
    end(answers == ROUNDS && calls[RX] && calls[TX] ? GOOD : BAD);
}
