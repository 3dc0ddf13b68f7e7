# Fine-tuning at 384 pixels: at test time the whole image is squashed to a square (crop ratio 1.0).
_base_ = 'finetune_imagenet.py'

size = 384
train_dataloader = dict(batch_size=16, dataset=dict(transform=dict(input_size=size)))
val_dataloader = dict(batch_size=64, dataset=dict(transform=dict(input_size=size, crop_pct=1.0, crop_mode='squash')))
test_dataloader = val_dataloader
