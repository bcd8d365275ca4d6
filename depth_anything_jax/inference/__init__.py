"""Inference: a model, the depth it predicts for a picture, and files and point clouds of it.

    from depth_anything_jax import DepthAnything

    model = DepthAnything.from_pretrained("depth-anything/Depth-Anything-V2-Small-hf")
    depth = model("photo.jpg")
    depth.save("photo.depth.png")

Start with the modules `model` and `depth`.
"""
