"""Depth for people: a model, what it says about a picture, files and point clouds of it.

    from depth_anything_jax import DepthAnything

    model = DepthAnything.from_pretrained("depth-anything/Depth-Anything-V2-Small-hf")
    depth = model("photo.jpg")
    depth.save("photo.depth.png")

`model` is read first, then `depth`.
"""
