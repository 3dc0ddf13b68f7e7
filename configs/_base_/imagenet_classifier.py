# A classifier of ImageNet-1K's images, their augmentation and their evaluation (paper, tables 5 and 6).
_base_ = 'imagenet_loaders.py'

num_classes = 1000
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNeXt', arch='tiny'),
    num_classes=num_classes,
    label_smoothing=0.1,
    data_preprocessor=dict(random_erasing=0.25),
)

augmentation = dict(input_size=_base_.size, auto_augment='rand-m9-mstd0.5-inc1', interpolation='bicubic')
train_dataloader = dict(dataset=dict(type='TimmDataset', transform=augmentation))
val_dataloader = dict(dataset=dict(type='TimmDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='AccuracyMetric')
test_evaluator = val_evaluator
