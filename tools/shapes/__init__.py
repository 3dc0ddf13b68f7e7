"""How `tools/make_shapes.py` draws its pictures and writes them in the layouts of COCO, ADE20K and ImageNet."""
