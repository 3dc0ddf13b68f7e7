"""Installs `convnext_backbone` beside either MM stack; the extras name which versions were tested together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Classification: timm for images, shards and Hugging Face data sets by the other two.
IMAGENET = ['timm==1.0.31', 'webdataset==1.0.2', 'datasets==5.2.0']
# What the MM packages import but do not require: mmengine and mmcv pkg_resources, which setuptools 82 and later have no
# more, mmdet six, mmsegmentation ftfy and regex. And torchvision, for the operators in convnext_backbone/ops.
UNNAMED = ['torchvision', 'setuptools<81', 'six', 'ftfy', 'regex']
TESTS = ['pytest==9.2.0', 'pytest-xdist==3.8.0', 'hypothesis', 'submitit==1.5.4']


def version() -> str:
    """The version as the package states it, read as text: importing it would need torch and mmengine."""
    text = (HERE / 'convnext_backbone/__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", text, re.M)[1]


def readme() -> str:
    """The README, which is the page of the package."""
    path = HERE / 'README.md'
    return path.read_text(encoding='utf-8') if path.exists() else ''


setup(
    name='convnext-backbone',
    version=version(),
    description='ConvNeXt as a backbone for mmengine, mmdetection and mmsegmentation',
    long_description=readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['convnext_backbone*']),
    python_requires='>=3.10',
    # mmengine is needed as well, but it exists under two distribution names, which overwrite each other's files:
    # neither may be required here. torch 2.6 is the first with fully_shard in torch.distributed.fsdp.
    install_requires=['torch>=2.6', 'safetensors>=0.4', 'huggingface_hub>=0.26', 'filelock', 'tqdm'],
    # The same numbers as in constraints/, which pin everything below them too.
    extras_require={
        'openmmlab': [
            'mmengine==0.10.7',
            'mmcv-lite==2.1.0',
            'mmdet==3.3.0',
            'mmsegmentation==1.2.2',
            *UNNAMED,
        ],
        'onedl': [
            'onedl-mmengine==0.10.12',
            'onedl-mmcv==2.3.6',
            'onedl-mmdetection==3.5.1',
            'onedl-mmsegmentation==1.4.2',
            *UNNAMED,
        ],
        'imagenet': IMAGENET,
        'dev': [*IMAGENET, *TESTS, 'ruff==0.17.5', 'transformers'],
    },
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
