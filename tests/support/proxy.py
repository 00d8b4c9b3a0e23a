"""A random-weight open_clip folder of BiomedCLIP's class: a timm ViT and a Hugging Face BERT text tower, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "effusion", "pneumonia", "edema", "normal", "pleural", "chest")
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 300,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    },
}
PREPROCESS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def biomedclip_folder(folder: Path, weights: str = "open_clip_pytorch_model.bin") -> Path:
    """Write the folder as the hub holds it: configuration, weights and tokenizer, but no config.json of the BERT."""
    import open_clip
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    card = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(card), encoding="utf-8")
    text_cfg = MODEL["text_cfg"] | {"hf_model_name": str(folder), "hf_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = open_clip.model.CustomTextCLIP(**{**MODEL, "text_cfg": text_cfg})
    if weights.endswith(".bin"):
        torch.save(model.state_dict(), folder / weights)
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), folder / weights)
    (folder / "config.json").unlink()
    return folder
