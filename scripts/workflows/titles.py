"""The title of each example graph: the file name that the template browser shows.

The key is the name of its API form, and what `inkstone run` takes. Only the standard library: the
browser's checks read it too.
"""

TITLES = {
    "text_to_image_embedded": "Text to image (no download)",
    "edit_embedded": "Edit a picture (no download)",
    "image_to_image_embedded": "Image to image (no download)",
    "inpaint_embedded": "Inpaint (no download)",
    "controlnet_embedded": "ControlNet (no download)",
    "text_to_image_qwen_image": "Text to image",
    "text_to_image_lightning_8_steps": "Text to image, Lightning 8 steps",
    "text_to_image_gguf_lightning_lora": "Text to image, GGUF with Lightning",
    "image_to_image_qwen_image": "Image to image",
    "inpaint_qwen_image": "Inpaint",
    "outpaint_qwen_image": "Outpaint",
    "edit_2509": "Edit 2509",
    "edit_2509_three_pictures": "Edit 2509, three pictures",
    "edit_2511": "Edit 2511",
    "edit_2511_three_pictures": "Edit 2511, three pictures",
    "edit_2511_segmentation": "Edit 2511, segmentation",
    "edit_2511_depth": "Edit 2511, depth",
    "edit_2511_edges": "Edit 2511, edges",
    "edit_2511_novel_view": "Edit 2511, novel view",
    "edit_2511_restoration": "Edit 2511, restoration",
    "edit_2511_super_resolution": "Edit 2511, super-resolution",
    "layered": "Split into layers",
    "controlnet_union_canny": "ControlNet Union, canny",
    "controlnet_union_soft_edge": "ControlNet Union, soft edge",
    "controlnet_union_lineart": "ControlNet Union, line art",
    "controlnet_union_depth": "ControlNet Union, depth",
    "controlnet_union_pose": "ControlNet Union, pose",
    "controlnet_inpainting": "ControlNet Inpainting",
    "controlnet_blockwise_canny": "ControlNet blockwise, canny",
    "controlnet_blockwise_depth": "ControlNet blockwise, depth",
    "controlnet_blockwise_inpaint": "ControlNet blockwise, inpaint",
    "controlnet_in_context": "ControlNet in context",
    "controlnet_fun_union": "ControlNet Fun 2512",
    "controlnet_fun_union_inpaint": "ControlNet Fun 2512, inpaint",
}
