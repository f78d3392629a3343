"""Common corruptions of test images, one class each: noise, blur, weather and digital.

They follow the descriptions of Hendrycks and Dietterich (2019), https://arxiv.org/abs/1903.12261,
section 3 and appendix B. The strengths are this project's, chosen for images of 28 to 64 pixels, so
that numbers compare with each other and not with published ones on CIFAR-10-C. Glass blur, snow and
frost are left out; frost would need photographs.
"""
