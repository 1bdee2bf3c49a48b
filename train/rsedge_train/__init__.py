"""Networks, distillation and training (torch, timm, sam2)."""
