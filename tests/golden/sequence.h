/* Written by sequence.py: do not edit. */
/* clang-format off */
typedef struct golden_tensor {
    const char *name;
    int rank, shape[4];
    float scale, offset; /* of value(k, i) */
} golden_tensor;
static const golden_tensor golden_vit[] = {
    {"cls_token", 3, {1, 1, 12}, 0.5f, 0.0f},
    {"pos_embed", 3, {1, 5, 12}, 0.5f, 0.0f},
    {"patch_embed.proj.weight", 4, {12, 3, 4, 4}, 0.5f, 0.0f},
    {"patch_embed.proj.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.0.norm1.weight", 1, {12}, 0.25f, 1.0f},
    {"blocks.0.norm1.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.0.attn.qkv.weight", 2, {36, 12}, 0.5f, 0.0f},
    {"blocks.0.attn.qkv.bias", 1, {36}, 0.5f, 0.0f},
    {"blocks.0.attn.proj.weight", 2, {12, 12}, 0.5f, 0.0f},
    {"blocks.0.attn.proj.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.0.norm2.weight", 1, {12}, 0.25f, 1.0f},
    {"blocks.0.norm2.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc1.weight", 2, {48, 12}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc1.bias", 1, {48}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc2.weight", 2, {12, 48}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc2.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.1.norm1.weight", 1, {12}, 0.25f, 1.0f},
    {"blocks.1.norm1.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.1.attn.qkv.weight", 2, {36, 12}, 0.5f, 0.0f},
    {"blocks.1.attn.qkv.bias", 1, {36}, 0.5f, 0.0f},
    {"blocks.1.attn.proj.weight", 2, {12, 12}, 0.5f, 0.0f},
    {"blocks.1.attn.proj.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.1.norm2.weight", 1, {12}, 0.25f, 1.0f},
    {"blocks.1.norm2.bias", 1, {12}, 0.5f, 0.0f},
    {"blocks.1.mlp.fc1.weight", 2, {48, 12}, 0.5f, 0.0f},
    {"blocks.1.mlp.fc1.bias", 1, {48}, 0.5f, 0.0f},
    {"blocks.1.mlp.fc2.weight", 2, {12, 48}, 0.5f, 0.0f},
    {"blocks.1.mlp.fc2.bias", 1, {12}, 0.5f, 0.0f},
    {"norm.weight", 1, {12}, 0.25f, 1.0f},
    {"norm.bias", 1, {12}, 0.5f, 0.0f},
    {"head.weight", 2, {5, 12}, 0.5f, 0.0f},
    {"head.bias", 1, {5}, 0.5f, 0.0f},
};
static const double golden_vit_logits[] = {
    0.135691063, -0.224928272, 0.826962032, -2.25183733, -2.24786472, -0.16007853, -0.296593834, 0.983343268,
    -2.18341725, -2.70561196
};
static const golden_tensor golden_deit[] = {
    {"cls_token", 3, {1, 1, 8}, 0.5f, 0.0f},
    {"pos_embed", 3, {1, 8, 8}, 0.5f, 0.0f},
    {"dist_token", 3, {1, 1, 8}, 0.5f, 0.0f},
    {"patch_embed.proj.weight", 4, {8, 1, 3, 3}, 0.5f, 0.0f},
    {"patch_embed.proj.bias", 1, {8}, 0.5f, 0.0f},
    {"blocks.0.norm1.weight", 1, {8}, 0.25f, 1.0f},
    {"blocks.0.norm1.bias", 1, {8}, 0.5f, 0.0f},
    {"blocks.0.attn.qkv.weight", 2, {24, 8}, 0.5f, 0.0f},
    {"blocks.0.attn.qkv.bias", 1, {24}, 0.5f, 0.0f},
    {"blocks.0.attn.proj.weight", 2, {8, 8}, 0.5f, 0.0f},
    {"blocks.0.attn.proj.bias", 1, {8}, 0.5f, 0.0f},
    {"blocks.0.norm2.weight", 1, {8}, 0.25f, 1.0f},
    {"blocks.0.norm2.bias", 1, {8}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc1.weight", 2, {32, 8}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc1.bias", 1, {32}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc2.weight", 2, {8, 32}, 0.5f, 0.0f},
    {"blocks.0.mlp.fc2.bias", 1, {8}, 0.5f, 0.0f},
    {"norm.weight", 1, {8}, 0.25f, 1.0f},
    {"norm.bias", 1, {8}, 0.5f, 0.0f},
    {"head.weight", 2, {4, 8}, 0.5f, 0.0f},
    {"head.bias", 1, {4}, 0.5f, 0.0f},
    {"head_dist.weight", 2, {4, 8}, 0.5f, 0.0f},
    {"head_dist.bias", 1, {4}, 0.5f, 0.0f},
};
static const double golden_deit_logits[] = {
    1.30720726, -0.387861509, 0.288147112, 0.582015767, 1.34117114, -0.368020796, 0.131984736, 0.637474234
};
