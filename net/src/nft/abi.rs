//! Numbers of include/uapi/linux/netfilter/nf_tables.h, with the kernel's names less their `NFTA_` prefix.

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const TABLE_F_OWNER: u32 = 2;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_HOOKNUM: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const HOOK_DEV: u16 = 3;
pub(super) const HOOK_DEVS: u16 = 4;
pub(super) const DEVICE_NAME: u16 = 1;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_DESC_CONCAT: u16 = 2;
pub(super) const SET_FIELD_LEN: u16 = 1;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const SET_F_ANONYMOUS: u32 = 1;
pub(super) const SET_F_CONSTANT: u32 = 2;
pub(super) const SET_F_INTERVAL: u32 = 4;
pub(super) const SET_F_MAP: u32 = 8;
pub(super) const SET_F_CONCAT: u32 = 0x80;
pub(super) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

pub(super) const ELEM_LIST_TABLE: u16 = 1;
pub(super) const ELEM_LIST_SET: u16 = 2;
pub(super) const ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const ELEM_LIST_SET_ID: u16 = 4;
pub(super) const LIST_ELEM: u16 = 1;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
pub(super) const ELEM_FLAGS: u16 = 3;
pub(super) const ELEM_KEY_END: u16 = 10;
pub(super) const ELEM_F_INTERVAL_END: u32 = 1;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const UDATA_RULE_COMMENT: u8 = 0;

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

pub(super) const META_DREG: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_SREG: u16 = 3;
pub(super) const PAYLOAD_DREG: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LEN: u16 = 4;
pub(super) const CT_DREG: u16 = 1;
pub(super) const CT_KEY: u16 = 2;
pub(super) const CT_DIRECTION: u16 = 3;
pub(super) const FIB_DREG: u16 = 1;
pub(super) const FIB_RESULT: u16 = 2;
pub(super) const FIB_FLAGS: u16 = 3;
pub(super) const FIB_RESULT_ADDRTYPE: u32 = 3;
pub(super) const FIB_F_SADDR: u32 = 1;
pub(super) const FIB_F_DADDR: u32 = 2;
pub(super) const BITWISE_SREG: u16 = 1;
pub(super) const BITWISE_DREG: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;
pub(super) const CMP_SREG: u16 = 1;
pub(super) const CMP_OP: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;
pub(super) const RANGE_SREG: u16 = 1;
pub(super) const RANGE_OP: u16 = 2;
pub(super) const RANGE_FROM: u16 = 3;
pub(super) const RANGE_TO: u16 = 4;
pub(super) const LOOKUP_SET: u16 = 1;
pub(super) const LOOKUP_SREG: u16 = 2;
pub(super) const LOOKUP_DREG: u16 = 3;
pub(super) const LOOKUP_SET_ID: u16 = 4;
pub(super) const LOOKUP_FLAGS: u16 = 5;
pub(super) const LOOKUP_F_INV: u32 = 1;
pub(super) const IMMEDIATE_DREG: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;
pub(super) const COUNTER_BYTES: u16 = 1;
pub(super) const COUNTER_PACKETS: u16 = 2;
pub(super) const LOG_GROUP: u16 = 1;
pub(super) const LOG_PREFIX: u16 = 2;
pub(super) const LOG_LEVEL: u16 = 5;
pub(super) const LOG_LEVEL_WARNING: u32 = 4;
pub(super) const LIMIT_RATE: u16 = 1;
pub(super) const LIMIT_UNIT: u16 = 2;
pub(super) const LIMIT_BURST: u16 = 3;
pub(super) const LIMIT_TYPE: u16 = 4;
pub(super) const LIMIT_FLAGS: u16 = 5;
pub(super) const LIMIT_F_INV: u32 = 1;
pub(super) const REJECT_TYPE: u16 = 1;
pub(super) const REJECT_CODE: u16 = 2;
pub(super) const NAT_TYPE: u16 = 1;
pub(super) const NAT_FAMILY: u16 = 2;
pub(super) const NAT_ADDR_MIN: u16 = 3;
pub(super) const NAT_ADDR_MAX: u16 = 4;
pub(super) const NAT_PROTO_MIN: u16 = 5;
pub(super) const NAT_PROTO_MAX: u16 = 6;
pub(super) const NAT_FLAGS: u16 = 7;
pub(super) const NAT_F_PROTO_SPECIFIED: u32 = 2;
pub(super) const REDIR_PROTO_MIN: u16 = 1;
pub(super) const REDIR_FLAGS: u16 = 3;

pub(super) const REG_VERDICT: u32 = 0;
pub(super) const REG_1: u32 = 1;
pub(super) const REG_2: u32 = 2;
/// The first 32-bit part of register 1; the others follow.
pub(super) const REG32_1: u32 = 8;
/// The second.
pub(super) const REG_1_PART_2: u32 = 9;

pub(super) const BASE_LINK: u32 = 0;
pub(super) const BASE_NETWORK: u32 = 1;
pub(super) const BASE_TRANSPORT: u32 = 2;

/// `NFT_META_*`, `NFT_CT_*`: those in use.
pub(super) const META_PROTOCOL: u32 = 1;
pub(super) const META_MARK: u32 = 3;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
pub(super) const META_IIFTYPE: u32 = 8;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
pub(super) const CT_STATE: u32 = 0;
pub(super) const CT_STATUS: u32 = 2;

pub(super) const CMP_EQ: u32 = 0;
pub(super) const CMP_NEQ: u32 = 1;
pub(super) const CMP_LT: u32 = 2;
pub(super) const CMP_LTE: u32 = 3;
pub(super) const CMP_GT: u32 = 4;
pub(super) const CMP_GTE: u32 = 5;

/// Verdict codes: netfilter's own, and nf_tables' negative ones.
pub(super) const NF_DROP: i32 = 0;
pub(super) const NF_ACCEPT: i32 = 1;
pub(super) const NFT_CONTINUE: i32 = -1;
pub(super) const NFT_JUMP: i32 = -3;
pub(super) const NFT_GOTO: i32 = -4;
pub(super) const NFT_RETURN: i32 = -5;
