#include "common.h"

struct node { int value; struct node *next; struct node **owner; };

static struct node nodes[5];
static struct node *head;

static NOINLINE void push(struct node *node, int value) {
    node->value = value;
    node->next = head;
    node->owner = &head;
    if (head) head->owner = &node->next;
    head = node;
}

static NOINLINE void drop(struct node *node) {
    *node->owner = node->next;
    if (node->next) node->next->owner = node->owner;
}

PROGRAM(pointers) {
    u64 hash = 1;
    head = 0;
    for (int i = 0; i < 5; i++) push(&nodes[i], i * i - 3);
    drop(&nodes[2]);
    drop(head);
    for (struct node *node = head; node; node = node->next) {
        hash = mixed(hash, (u64)(long long)node->value);
        hash = mixed(hash, (u64)(node - nodes));
    }
    unsigned char bytes[16];
    for (int i = 0; i < 16; i++) bytes[i] = (unsigned char)(i * 17);
    unsigned short half;
    __builtin_memcpy(&half, bytes + 3, 2);
    return mixed(hash, half);
}
